"""Every notebook runs from top to bottom, and shows what is kept in it."""

from pathlib import Path

import nbformat
import pytest

from tests.notebooks import FIGURES, FOLDER, LARGEST, WHOLE, alike, differences, executed, tidied

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured_demo: tuple[Path, Path]):
    kept, (series, store) = nbformat.read(path, as_version=4), measured_demo
    if any(WHOLE in cell.metadata.get("tags", ()) for cell in kept.cells):
        monkeypatch.setenv("CIRCUIT_DRIFT_DEMO", str(series))
    monkeypatch.setenv("CIRCUIT_DRIFT_STORE", str(store))
    monkeypatch.setenv("COLUMNS", "100")
    new = tidied(executed(path, tmp_path, FIGURES), {f"{tmp_path}/": "", str(tmp_path): "."})
    shown = [output for cell in code_of(new) for output in cell.outputs if "data" in output]
    assert len(shown) >= 5
    assert any("text/html" in output["data"] for output in shown)
    assert list(differences(kept, new)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_pictures_are_kept_for_viewers_that_run_nothing(path: Path):
    kept = code_of(nbformat.read(path, as_version=4))
    pictures = [output for cell in kept for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 2 and path.stat().st_size < LARGEST
    assert not any(
        "application/vnd.plotly.v1+json" in output.get("data", {}) for cell in kept for output in cell.outputs
    )


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("score 0.71 [0.60, 0.80]", "score 0.72 [0.60, 0.79]", True),
        ("score 0.7132", "score 0.7201", True),
        ("37 % of it", "38 % of it", True),
        ("37 % of it", "39 % of it", False),
        ("step 9000", "step 9020", False),
        ("score 0.71", "score 0.75", False),
        ("19 checkpoints", "18 checkpoints", False),
        ("a0.h1 at 9,000", "a0.h2 at 9,000", False),
        ("p = 1e-3", "p = 1.01e-3", True),
        ("gained", "lost", False),
    ],
)
def test_shown_numbers_may_differ_in_their_last_digit(a: str, b: str, same: bool):
    assert alike(a, b) is same
