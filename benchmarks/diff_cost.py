"""What a comparison leaves out, and how often a verdict is made.

    OMP_NUM_THREADS=1 python -m benchmarks.diff_cost series/first-light@9000 series/first-light@9020
    OMP_NUM_THREADS=1 python -m benchmarks.diff_cost A B --options '--length 128' --run STORE

Processor seconds of ``circuit-drift diff A B`` with nothing stored, and with every measure of a run: how faithful each
circuit is alone a comparison does not show, and does not measure. Then calls and seconds, under a profiler, of what
makes the verdict, while the pair, all of it stored, is printed and its page written; of a stored run's report too.
"""

import argparse
import cProfile
import pstats
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from shlex import split

from benchmarks.series.memory import measured
from circuit_drift.cli.commands import app
from circuit_drift.comparison.pair import PAIR_MEASURES
from circuit_drift.measures.registry import MEASURES

EVERY = ",".join(dict.fromkeys([*MEASURES, *PAIR_MEASURES]))
DIFFER = 1
"""Exit status, which is no failure."""


def seconds(arguments: Sequence[str], folder: Path) -> float:
    """Processor seconds of a command.

    Raises:
        RuntimeError: it failed.
    """
    output = folder / "output.txt"
    status, _, processor, _ = measured(["-m", "circuit_drift.cli", *arguments], output)
    if status > DIFFER:
        raise RuntimeError(f"{arguments[0]} ended with {status}: {output.read_text()[-2000:]}")
    return processor


def made(arguments: Sequence[str], function: str) -> tuple[int, float, float]:
    """How often a function is called within a command, its seconds, and those of the command."""
    profile = cProfile.Profile()
    with redirect_stdout(StringIO()), suppress(SystemExit):
        profile.runcall(app, list(arguments), standalone_mode=False)
    stats = pstats.Stats(profile).get_stats_profile()
    told = stats.func_profiles.get(function)
    return (0, 0.0, stats.total_tt) if told is None else (int(told.ncalls), told.cumtime, stats.total_tt)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a")
    parser.add_argument("b")
    parser.add_argument("--options", default="", help="more options of the comparison")
    parser.add_argument("--run", type=Path, help="a store of a run, whose report's verdict is counted too")
    given = parser.parse_args()
    pair = ["diff", given.a, given.b, *split(given.options)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shown = seconds([*pair, "--store", f"{folder}/shown"], folder)
        every = seconds([*pair, "--store", f"{folder}/every", "--measures", EVERY], folder)
        print(f"diff: {shown:.1f} s; with every measure of a run: {every:.1f} s; {shown / every:.2f}")
        page = [*pair, "--store", f"{folder}/shown", "--html", f"{folder}/pair.html"]
        asked = {"pair_statements": page}
        if given.run:
            asked["run_statements"] = ["report", f"{folder}/run.html", "--store", str(given.run)]
        for function, arguments in asked.items():
            calls, spent, whole = made(arguments, function)
            print(f"{function} in {arguments[0]}: {calls} calls, {spent:.2f} of {whole:.1f} s")


if __name__ == "__main__":
    main()
