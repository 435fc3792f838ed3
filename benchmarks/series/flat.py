"""Peak memory of ``run``, ``transfer`` and ``report`` with real models, over more and more checkpoints of one series.

    OMP_NUM_THREADS=1 python -m benchmarks.series.flat series/first-light --checkpoints 5 10 19

Each number of checkpoints, spread evenly over the series, has a store of its own, and each command a process. The last
column is the peak over that of the fewest checkpoints: 1 where memory is flat. Transfer runs every circuit in every
model, so its time grows with the square.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.series.memory import measured
from checkpoints import open_series

MAIN = ["-c", "from circuit_drift.cli import main; main()"]


def spread(series: Path, count: int) -> str:
    """Steps of so many checkpoints, first and last among them."""
    checkpoints = open_series(series).checkpoints
    places = np.linspace(0, len(checkpoints) - 1, count).round().astype(int)
    return ",".join(str(checkpoints[place].step) for place in places)


def rows(series: Path, count: int, length: int) -> Iterator[tuple[str, float, int]]:
    """Every command's processor seconds and peak bytes over so many checkpoints.

    Raises:
        RuntimeError: a command failed.
    """
    steps = ["--steps", spread(series, count)]
    with tempfile.TemporaryDirectory() as folder:
        store, output = Path(folder, "store"), Path(folder, "output.txt")
        commands: dict[str, Sequence[str]] = {
            "run": ["run", str(series), *steps, "--length", str(length)],
            "transfer": ["transfer", str(series), *steps],
            "report": ["report", str(Path(folder, "report.html"))],
        }
        for name, arguments in commands.items():
            status, _, processor, peak = measured([*MAIN, *arguments, "--store", str(store)], output)
            if status:
                raise RuntimeError(f"{name} ended with {status}: {output.read_text()[-2000:]}")
            yield name, processor, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series", type=Path)
    parser.add_argument("--checkpoints", type=int, nargs="+", default=[5, 10, 19], help="from few to many")
    parser.add_argument("--length", type=int, default=256, help="of needle prompts, in tokens")
    given = parser.parse_args()
    fewest: dict[str, int] = {}
    print("| checkpoints | command | processor, s | peak, MiB | over the fewest |\n|---|---|---|---|---|")
    for count in given.checkpoints:
        for name, processor, peak in rows(given.series, count, given.length):
            over = peak / fewest.setdefault(name, peak)
            print(f"| {count} | {name} | {processor:.0f} | {peak / 2**20:.0f} | {over:.3f} |", flush=True)


if __name__ == "__main__":
    main()
