"""Thousands of mutated inputs for every kind of file that is read: counts by kind and outcome.

    python -m benchmarks.fuzz                           # 300 of each kind
    python -m benchmarks.fuzz --count 3000 --seed 7     # more, others
    python -m benchmarks.fuzz --kind "head lists" --keep bad

Good is what is read (where the file carries a digest: only what was written) and what is refused in one line. Bad is a
crash, a refusal of several lines, a wrong number, and what takes more time or memory than the input's size allows
(`tests.fuzz.trials`). The exit status is 1 where anything was bad; ``--keep`` writes those inputs to a folder.
"""

import argparse
import logging
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from random import Random

from tests.fuzz.kinds import KINDS
from tests.fuzz.trials import Kind, Outcome, trials

RESULTS = ("read", "refused", "crash", "lines", "wrong", "slow", "greedy", "hang")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", action="append", choices=[kind.name for kind in KINDS])
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    kinds = [kind for kind in KINDS if not options.kind or kind.name in options.kind]
    print(f"{'kind':24}" + "".join(f"{result:>9}" for result in RESULTS))
    bad: list[Outcome] = []
    for kind in kinds:
        outcomes = drawn(kind, options.seed, options.count)
        counts = Counter(outcome.result for outcome in outcomes)
        print(f"{kind.name:24}" + "".join(f"{counts[result]:9}" for result in RESULTS), flush=True)
        bad += [outcome for outcome in outcomes if not outcome.good]
    for number, outcome in enumerate(bad):
        print(f"{number}: {outcome.kind}, {outcome.result}: {outcome.detail}")
        if options.keep is not None:
            options.keep.mkdir(parents=True, exist_ok=True)
            (options.keep / str(number)).write_bytes(outcome.content)
    sys.exit(bool(bad))


def drawn(kind: Kind, seed: int, count: int) -> list[Outcome]:
    with tempfile.TemporaryDirectory() as folder:
        return trials(kind, Path(folder), Random(f"{kind.name} {seed}"), count)


if __name__ == "__main__":
    main()
