"""Peak memory, time and page size of what reads a stored run of many checkpoints, each in a process of its own.

    OMP_NUM_THREADS=1 python -m benchmarks.series.memory STORE --shape pythia-1.4b --checkpoints 154

The store is synthesised where it is not there yet: 5.1 GiB for 154 checkpoints of Pythia-1.4B's graph and 37 facts.
With ``--distinct 8`` the checkpoints of a phase have so many circuits in turn: 300 of OLMo-2-7B would take 73 GB. Each
checkpoint's is read by itself, so memory and page are those of circuits of their own; what is made of circuits is made
once for those that are the same, so times are less. What ``transfer`` does in models is not among the commands: it has
one of them at a time, and every checkpoint's pruned circuit, which `benchmarks.series.pruned` prepares as it does.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.series.synthetic import OLMO2_7B, PYTHIA_14B, SMOLLM2, Series, synthesise

SHAPES = {"pythia-1.4b": PYTHIA_14B, "smollm2-135m": SMOLLM2, "olmo-2-7b": OLMO2_7B}
COMMANDS: dict[str, Sequence[str]] = {
    "load_run": ["-c", "import sys, circuit_drift as c; print(c.load_run(sys.argv[1]))", "{store}"],
    "track, heads": ["-m", "circuit_drift.cli", "track", "{store}", "--measures", "heads"],
    "track": ["-m", "circuit_drift.cli", "track", "{store}"],
    "transfer, circuits": ["-m", "benchmarks.series.pruned", "{store}"],
    "report": ["-m", "circuit_drift.cli", "report", "{page}", "--store", "{store}"],
    "report, again": ["-m", "circuit_drift.cli", "report", "{page}", "--store", "{store}"],
}


def measured(arguments: Sequence[str], output: Path) -> tuple[int, float, float, int]:
    """Run Python with these arguments: exit status, wall and processor seconds, peak bytes."""
    start = time.monotonic()
    with output.open("w") as sink:
        files = [(os.POSIX_SPAWN_DUP2, sink.fileno(), target) for target in (1, 2)]
        child = os.posix_spawn(sys.executable, [sys.executable, *arguments], os.environ, file_actions=files)
        _, status, used = os.wait4(child, 0)
    seconds = time.monotonic() - start
    return os.waitstatus_to_exitcode(status), seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


def rows(series: Series, store: Path, commands: Sequence[str]) -> Iterator[tuple[str, float, float, int]]:
    """Every command's wall and processor seconds and peak bytes, in order.

    Raises:
        RuntimeError: a command failed.
    """
    if not (store / "runs").is_dir():
        synthesise(series, store)
    page, output = store / "report.html", store / "output.txt"
    for name in commands:
        arguments = [part.format(store=store, page=page) for part in COMMANDS[name]]
        status, wall, processor, peak = measured(arguments, output)
        if status:
            raise RuntimeError(f"{name} ended with {status}: {output.read_text()[-2000:]}")
        yield name, wall, processor, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="pythia-1.4b")
    parser.add_argument("--checkpoints", type=int, default=154)
    parser.add_argument("--heads-only", action="store_true")
    parser.add_argument("--distinct", type=int, help="circuits to write; default: one for each checkpoint")
    parser.add_argument("--facts", type=int, default=37)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    given = parser.parse_args()
    shape, circuits = SHAPES[given.shape], not given.heads_only
    series = Series(shape, given.checkpoints, given.facts, circuits=circuits, distinct=given.distinct)
    print("| command | wall, s | processor, s | peak, GiB |\n|---|---|---|---|")
    for name, wall, processor, peak in rows(series, given.store, given.commands):
        print(f"| {name} | {wall:.1f} | {processor:.1f} | {peak / 2**30:.2f} |", flush=True)
    if (page := given.store / "report.html").is_file():
        print(f"page {page.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
