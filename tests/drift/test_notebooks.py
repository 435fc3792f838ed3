"""Every notebook runs from top to bottom as it is shipped."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured_demo: tuple[Path, Path]):
    series, store = measured_demo
    monkeypatch.setenv("CIRCUIT_DRIFT_DEMO", str(series))
    monkeypatch.setenv("CIRCUIT_DRIFT_STORE", str(store))
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code"), "outputs are stripped"
    NotebookClient(
        notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs if "data" in out]
    assert len(shown) >= 5
    assert any("text/html" in out["data"] for out in shown)
