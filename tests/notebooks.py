"""Notebooks with their outputs: run from top to bottom, freed of what no reader needs, and held against a new run.

    python -m tests.notebooks [NAME ...]    run notebooks, and put what they show into their files

Figures are put in as pictures, which hosted viewers show too; that takes kaleido and a Chrome or Chromium. Names are
stems, as ``01_first_light``; all without any. CIRCUIT_DRIFT_DEMO and CIRCUIT_DRIFT_STORE are heeded as ever.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
LARGEST = 1_000_000
"""Bytes of a notebook at most."""
WHOLE = "whole-series"
"""Tag of a cell that tells of all checkpoints of the shipped series, so that a cut of it tells another number."""
PICTURES = """
import kaleido
import plotly.io as pio

kaleido.start_sync_server(silence_warnings=True)
pio.renderers["png"].width = 900
pio.renderers.default = "png"
"""
FIGURES = """
import plotly.io as pio

pio.renderers.default = "plotly_mimetype"
"""
_DRAWN = ("image/png", "application/vnd.plotly.v1+json")
_KEPT = ("text/html", "text/plain")
_NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?: ?%)?")


def executed(path: Path, folder: Path, before: str) -> NotebookNode:
    """A notebook after a run in a folder, its kernel told something before."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(before))
    client = NotebookClient(
        notebook,
        timeout=1200,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    del notebook.cells[0]
    return notebook


def tidied(notebook: NotebookNode, places: Mapping[str, str]) -> NotebookNode:
    """The notebook with what a reader sees alone: no progress, no alternatives to a picture, no folders of this run.

    Args:
        notebook: after a run.
        places: text -> what stands in its place.
    """
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec, "language_info": {"name": "python"}}
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for count, cell in enumerate(cells, 1):
        cell.execution_count = count
        cell.metadata = {"tags": cell.metadata["tags"]} if "tags" in cell.metadata else {}
        cell.outputs = [_placed(output, places) for output in cell.outputs if _is_told(output)]
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
    return notebook


def _is_told(output: NotebookNode) -> bool:
    return output.get("name") == "stdout" or any(kind in output.get("data", {}) for kind in (*_KEPT, *_DRAWN))


def _placed(output: NotebookNode, places: Mapping[str, str]) -> NotebookNode:
    def clean(text: str) -> str:
        for found, instead in places.items():
            text = text.replace(found, instead)
        return text

    if "text" in output:
        output["text"] = clean(output["text"])
        return output
    kind = next(kind for kind in (*_DRAWN, *_KEPT) if kind in output.data)
    output.data = {kind: clean(output.data[kind]) if kind.startswith("text") else output.data[kind]}
    output.metadata = {}
    return output


def told(cell: NotebookNode) -> list[str]:
    """What a cell shows, one text an output; of a picture that it is one."""
    found = []
    for output in cell.outputs:
        data = output.get("data", {"text/plain": output.get("text", "")})
        drawn = any(kind in data for kind in _DRAWN)
        found.append("a figure" if drawn else "\n".join(data[kind] for kind in _KEPT if kind in data))
    return found


def differences(kept: NotebookNode, new: NotebookNode) -> Iterator[str]:
    """Where a new run shows something else than what is kept.

    Numbers that are no counts may differ in their last digit, or by 2 %.
    """
    for place, (before, after) in enumerate(zip(kept.cells, new.cells, strict=True)):
        if before.cell_type != "code":
            continue
        old, now = told(before), told(after)
        whole = WHOLE in before.metadata.get("tags", ())
        if len(old) != len(now):
            yield f"cell {place} shows {len(old)} things, now {len(now)}"
        elif not whole:
            changed = [(a, b) for a, b in zip(old, now, strict=True) if not alike(a, b)]
            yield from (f"cell {place} shows {a!r}, now {b!r}" for a, b in changed)


def alike(a: str, b: str) -> bool:
    """Whether two texts are the same up to their numbers' last digits."""
    if _NUMBER.sub("#", a) != _NUMBER.sub("#", b):
        return False
    return all(map(_near, _NUMBER.findall(a), _NUMBER.findall(b)))


def _near(a: str, b: str) -> bool:
    if a == b:
        return True
    if not any(mark in a for mark in ".e%"):  # a count
        return False
    one, other = (float(text.strip(" %").replace(",", "")) for text in (a, b))
    last = 10.0 ** -len(a.strip(" %").partition(".")[2])
    return abs(one - other) <= max(1.001 * last if "e" not in a else 0, 0.02 * abs(one))


def refresh(path: Path) -> None:
    """Run a notebook and put what it shows into its file."""
    with TemporaryDirectory(prefix="notebook-") as folder:
        notebook = tidied(executed(path, Path(folder), PICTURES), {f"{folder}/": "", folder: "."})
    nbformat.write(notebook, path)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")  # noqa: T201


def main(names: list[str]) -> None:
    """Refresh the notebooks of those names, or all."""
    os.environ.setdefault("COLUMNS", "100")
    for path in sorted(FOLDER.glob("*.ipynb")):
        if not names or path.stem in names:
            refresh(path)


if __name__ == "__main__":
    main(sys.argv[1:])
