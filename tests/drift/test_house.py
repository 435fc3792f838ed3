"""The house itself: what the wheel holds, which way imports run, what start-up costs."""

import ast
import importlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("checkpoints", "heads", "circuits", "circuit_drift")
HEAVY = ("torch", "transformers", "plotly", "pandas")
MAY_USE = {
    "checkpoints": set(),
    "heads": {"checkpoints"},
    "circuits": {"checkpoints"},
    "circuit_drift": {"checkpoints", "heads", "circuits"},
}


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: absolute imports only"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package: str):
    for path in (ROOT / package).rglob("*.py"):
        others = _imports(path) & (set(PACKAGES) - {package})
        assert others <= MAY_USE[package], f"{path.relative_to(ROOT)} imports {others - MAY_USE[package]}"


def test_the_wheel_holds_the_four_packages_and_nothing_else(tmp_path: Path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == set(PACKAGES)
    assert {"circuit_drift/page/report.html.j2", "circuit_drift/page/style.css"} <= set(names)
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert wheel.stat().st_size < 2_000_000


@pytest.mark.parametrize(
    "statement",
    [
        "import checkpoints, heads, circuits, circuit_drift",
        "import circuit_drift.cli",
        "from circuit_drift import compare, diff, load_run, run, write_report",
        "from heads import RetrievalScores, compare, load_needles",
        "from circuits import AttributionGraph, diff, load_facts",
    ],
)
def test_starting_up_imports_no_torch(statement: str):
    code = f"import sys; {statement}; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "name",
    [
        "heads",
        "circuits",
        "circuit_drift",
        "circuit_drift.behaviour",
        "circuit_drift.knowledge",
        "circuit_drift.training",
        "circuit_drift.training.strategies",
    ],
)
def test_what_a_package_offers_can_be_had_and_completed(name: str):
    package = importlib.import_module(name)
    assert len(package.__all__) > 5
    assert set(package.__all__) <= set(dir(package))
    assert all(getattr(package, offered) is not None for offered in package.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = package.nothing


def test_help_is_quick_to_read_and_imports_no_torch():
    code = (
        "import sys; sys.argv = ['circuit-drift', '--help']\n"
        "from circuit_drift.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert stop.code == 0, stop.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for command in ("run", "diff", "report", "show"):
        assert f"\n  {command} " in done.stdout
