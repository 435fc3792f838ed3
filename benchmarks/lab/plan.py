"""What ``train --plan`` tells beside what then happens, each in a process of its own.

    OMP_NUM_THREADS=1 python -m benchmarks.lab.plan CONFIG.toml OUT

Processor time is told beside wall time, since the one that a plan tells is that of the moment.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.series.memory import measured
from circuit_drift.training.strategies.checkpointing import seconds_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    if given.out.exists():
        sys.exit(f"{given.out} is there already: name another place")
    log = given.out.with_suffix(".log")
    asked = ["-m", "circuit_drift.cli", "train", str(given.config), "--out", str(given.out)]
    for what, arguments in (("the plan", [*asked, "--plan"]), ("the training", asked)):
        status, wall, processor, peak = measured(arguments, log)
        if status or what == "the plan":
            print(log.read_text(), flush=True)
        print(f"{what}: {wall:.0f} s, processor {processor:.0f} s, memory {peak / 1e6:.0f} MB", flush=True)
    for folder in sorted(path.parent for path in given.out.glob("*/strategy.json")):
        seconds = list(seconds_of(folder).items())
        size = sum(path.stat().st_size for path in folder.rglob("*"))
        print(f"{folder.name}: {seconds[-1][0]} steps in {seconds[-1][1]:.0f} s, {size / 1e6:.1f} MB")
    written = sum(path.stat().st_size for path in given.out.rglob("*"))
    print(f"disk in all {written / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
