"""The house itself: what the wheel holds, which way imports run, what start-up costs."""

import ast
import importlib
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections import Counter
from hashlib import sha256
from pathlib import Path
from types import ModuleType

import networkx as nx
import pytest

import circuit_drift
from tests.import_graph import circles, import_graph, rooms

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("checkpoints", "heads", "circuits", "circuit_drift")
HEAVY = ("torch", "transformers", "plotly", "pandas")
MAY_USE = {
    "checkpoints": set(),
    "heads": {"checkpoints"},
    "circuits": {"checkpoints"},
    "circuit_drift": {"checkpoints", "heads", "circuits"},
}
DOORS = {
    ("checkpoints.series.checkpoint", "checkpoints.loading.load"): "Checkpoint.load, and the types of what it gives",
    ("checkpoints.series.series", "checkpoints.loading.stream"): "Series.models",
    ("checkpoints.series.series", "checkpoints.loading.load"): "the types of what Series.models gives",
    ("circuits.graph.circuit", "circuits.graph.exports"): "Circuit.export",
}
"""Imports that look up: a method that opens what stands above it."""
FLOORS = (
    ("plugins", "prompts", "shadows", "store", "trackers", "twins"),
    ("record", "statements"),
    ("page",),
    ("measures",),
    ("explanation",),
    ("weights",),
    ("sweep",),
    ("stages", "comparison"),
    ("knowledge", "behaviour"),
    ("training",),
    ("benchmark",),
    ("explore",),
    ("report",),
    ("api",),
    ("cli",),
    ("__main__",),
)
"""The rooms of circuit_drift from the ground up; the lab and the replications stand outside."""
OUTSIDE = ("circuit_drift.lab.", "circuit_drift.replicate.")
NAME_THEM = {"checkpoints.former", "circuit_drift.behaviour.suites"}
"""Modules that name what stands outside, and do not import it: former paths; the lab's suite, as an entry point."""
MODULES_A_FOLDER, LINES_A_MODULE = 13, 400


@pytest.fixture(scope="module")
def graph() -> nx.DiGraph:
    return import_graph(ROOT, PACKAGES)


def test_packages_import_one_way(graph: nx.DiGraph):
    between = {(one.split(".")[0], other.split(".")[0]) for one, other in graph.edges}
    assert between <= {(package, other) for package, allowed in MAY_USE.items() for other in {package, *allowed}}


def test_rooms_import_one_way(graph: nx.DiGraph):
    assert set(DOORS) <= set(graph.edges), "a door that nobody uses any more; take it off the list"
    assert circles(rooms(graph, DOORS)) == []


def test_the_rooms_of_circuit_drift_stand_on_those_below(graph: nx.DiGraph):
    floor = {name: height for height, names in enumerate(FLOORS) for name in names}
    inside = {module: module.split(".")[1] for module in graph if module.startswith("circuit_drift.")}
    assert set(inside.values()) == {*floor, *(name.split(".")[1] for name in OUTSIDE)}
    between = {(inside[one], inside[other]) for one, other in graph.edges if {one, other} <= inside.keys()}
    assert {(a, b) for a, b in between if a in floor and b in floor and floor[a] < floor[b]} == set()


def test_the_table_of_rooms_stands_from_the_ground_up(graph: nx.DiGraph):
    height = {name: place for place, name in enumerate(_rooms_of_the_table())}
    between = {tuple(".".join(end.split(".")[:2]) for end in edge) for edge in rooms(graph, DOORS).edges}
    assert {(a, b) for a, b in between if {a, b} <= height.keys() and height[a] < height[b]} == set()


def test_a_circle_is_a_value_and_its_view_or_a_door(graph: nx.DiGraph):
    for circle in circles(graph):
        assert len(circle) == 2, circle
        value, view = circle
        assert view == f"{value}_view" or {(value, view), (view, value)} & set(DOORS), circle


def test_a_folder_holds_about_a_dozen_modules_and_a_module_one_idea(graph: nx.DiGraph):
    inside = Counter(path.parent for _, path in graph.nodes(data="path") if path.name != "__init__.py")
    assert {str(folder.relative_to(ROOT)): n for folder, n in inside.items() if n > MODULES_A_FOLDER} == {}
    assert {module: n for module, n in graph.nodes(data="lines") if n > LINES_A_MODULE} == {}


@pytest.mark.parametrize("outside", ["tests", "benchmarks"])
def test_folders_beside_the_packages_hold_about_a_dozen_modules_too(outside: str):
    inside = Counter(path.parent for path in (ROOT / outside).rglob("*.py") if path.name != "__init__.py")
    assert {str(folder.relative_to(ROOT)): n for folder, n in inside.items() if n > MODULES_A_FOLDER} == {}


def test_tests_follow_the_rooms():
    rooms_of = {package: _folders(ROOT / package) for package in PACKAGES}
    homes = {
        **{package: rooms_of[package] for package in ("checkpoints", "heads", "circuits")},
        "drift": {*rooms_of["circuit_drift"], "docs"},
        "lab": {*rooms_of["circuit_drift"], *_folders(ROOT / "circuit_drift" / "lab"), "world"},
    }
    folders = {path.parent.relative_to(ROOT / "tests").parts for path in (ROOT / "tests").rglob("test_*.py")}
    assert {parts[0] for parts in folders if parts} <= {*homes, "fuzz", "real"}
    for home, allowed in homes.items():
        inside = {"/".join(parts[1:]) for parts in folders if parts[:1] == (home,)}
        assert inside <= {"", *allowed}, home


def _folders(path: Path) -> set[str]:
    return {inside.name for inside in path.iterdir() if inside.is_dir()}


@pytest.mark.parametrize("outside", ["circuit_drift.lab", "circuit_drift.replicate"])
def test_nothing_rests_on_what_stands_outside_the_house(graph: nx.DiGraph, outside: str):
    users = {one for one, other in graph.edges if f"{other}.".startswith(f"{outside}.")}
    texts = {module: path.read_text(encoding="utf-8") for module, path in graph.nodes(data="path")}
    users |= {module for module, text in texts.items() if f'"{outside}.' in text}
    assert {user for user in users - NAME_THEM if not f"{user}.".startswith(OUTSIDE)} == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_hides_a_public_name(graph: nx.DiGraph, package: str):
    face = importlib.import_module(package)
    for module in graph:
        if module.rpartition(".")[0] == package:
            importlib.import_module(module)
    assert [name for name in face.__all__ if isinstance(getattr(face, name), ModuleType)] == []


def test_resampling_and_corrections_stand_in_one_room(graph: nx.DiGraph):
    own = re.compile(
        r"multinomial\(|quantile\(|percentile\(|false_discovery_control|beta\.ppf|binomtest|integers\(.*, (size=)?\("
    )
    tests = re.compile(r"ttest_|permutation_test|wilcoxon|mannwhitneyu|\bt\.(ppf|sf)|norm\.(ppf|sf)|stats\.bootstrap\(")
    texts = {module: path.read_text(encoding="utf-8") for module, path in graph.nodes(data="path")}
    drawn = {module for module, text in texts.items() if own.search(text)}
    tested = {module for module, text in texts.items() if tests.search(text) and not module.startswith(OUTSIDE)}
    assert {module.rpartition(".")[0] for module in drawn | tested} == {"checkpoints.stats"}


def test_mutants_are_planted_in_modules_that_are_there_and_killed_by_tests_that_are_there():
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutmut"]
    named = (*asked["only_mutate"], *asked["do_not_mutate"], *asked["pytest_add_cli_args_test_selection"])
    assert [pattern for pattern in named if not any(ROOT.glob(pattern.partition("::")[0]))] == []
    tests = (name.split("::") for name in asked["pytest_add_cli_args_test_selection"] if "::" in name)
    assert [test for file, test in tests if f"def {test}(" not in (ROOT / file).read_text()] == []
    planted = {path.relative_to(ROOT).as_posix() for pattern in asked["only_mutate"] for path in ROOT.glob(pattern)}
    views = {path.relative_to(ROOT).as_posix() for name in PACKAGES for path in (ROOT / name).rglob("*_view.py")}
    assert views - planted == set(), "a module that words or draws a result, and that no mutant is planted in"


def test_faults_without_an_effect_are_listed_under_their_numbers_of_now():
    told = tomllib.loads((ROOT / "tests" / "mutants_equivalent.toml").read_text())
    now = {function: sha256(_source(function).encode()).hexdigest()[:12] for function in told}
    assert now == {function: about["text"] for function, about in told.items()}, (
        "the function changed: look its faults up again with python -m tests.mutants show, then write the new text ="
    )


def _source(function: str) -> str:
    """Of a function or a method by mutmut's name, room.module.x_name or room.module.xǁClassǁname."""
    module, _, name = function.rpartition(".")
    text = Path(ROOT, *module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
    node: ast.AST = ast.parse(text)
    for part in name.removeprefix("xǁ").removeprefix("x_").split("ǁ"):
        node = next(inner for inner in node.body if getattr(inner, "name", None) == part)
    return ast.get_source_segment(text, node)


def test_the_architecture_page_names_every_room_and_only_files_that_are_there(graph: nx.DiGraph):
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = {name for name in re.findall(r"`([\w./]+)`", page) if "/" in name}
    assert len(named) > 15
    assert {name for name in named if not (ROOT / name).exists()} == set()
    assert {module.rpartition(".")[0] for module in graph if module.count(".") == 2} == set(_rooms_of_the_table())


def test_the_docstring_of_a_package_names_its_rooms():
    told = {package: importlib.import_module(package).__doc__ for package in PACKAGES}
    rooms_there = (room.split(".") for room in _rooms_of_the_table())
    assert [name for package, name in rooms_there if not re.search(rf"\b{name}\b", told[package])] == []
    assert max(len(text.splitlines()) for text in told.values()) <= 40


def _rooms_of_the_table() -> list[str]:
    """The rooms in the order of the architecture page, ``package.room``."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = page[page.index("| `checkpoints` |") : page.index("Rooms import downwards")].replace(
        "outside", "circuit_drift"
    )
    package, found = "", []
    for row in filter(None, table.splitlines()):
        named, rooms_of, *_ = (re.findall(r"\w+", cell) for cell in row.split("|")[1:])
        package = named[0] if named else package
        found += [f"{package}.{name}" for name in rooms_of]
    return found


def test_the_guard_sees_every_way_to_import(tmp_path: Path):
    files = {
        "house/__init__.py": "from house.cellar.wine import Wine",
        "house/cellar/__init__.py": "",
        "house/cellar/wine.py": "def drink():\n    from house.kitchen import Cook\n    return Cook",
        "house/kitchen/__init__.py": "import lazy_loader",
        "house/kitchen/__init__.pyi": "from .cook import Cook as Cook",
        "house/kitchen/cook.py": "if TYPE_CHECKING:\n    import house.hall\n",
        "house/hall.py": "from house.cellar import wine",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    found = import_graph(tmp_path, ["house"])
    assert circles(found) == [["house.cellar.wine", "house.hall", "house.kitchen.cook"]]
    assert circles(rooms(found)) == [["house.cellar", "house.hall", "house.kitchen"]]
    assert circles(rooms(found, [("house.cellar.wine", "house.kitchen.cook")])) == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist as an installer does where no wheel is offered."""
    made = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(made), "-t"]
    subprocess.run([*build, "sdist"], cwd=ROOT, check=True, capture_output=True)
    (sdist,) = made.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(made / "source", filter="data")
    (source,) = (made / "source").iterdir()
    subprocess.run([*build, "wheel"], cwd=source, check=True, capture_output=True)
    (built,) = made.glob("*.whl")
    return built


def test_the_version_stands_in_one_place(wheel: Path):
    version = circuit_drift.__version__
    assert wheel.name == f"circuit_drift-{version}-py3-none-any.whl"
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


def test_what_is_installed_from_the_wheel_works_away_from_the_sources(wheel: Path, tmp_path: Path):
    place = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(place)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(place)}
    code = (
        "import checkpoints, circuit_drift, heads; print(circuit_drift.__file__, checkpoints.__file__); "
        "from heads.prompts.pools import default_needles; print(len(default_needles())); "
        "assert circuit_drift.run and checkpoints.open_series"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    first, second, count = done.stdout.split()
    assert Path(first).is_relative_to(place)
    assert Path(second).is_relative_to(place)
    assert count == "12"
    for program in ([str(place / "bin" / "circuit-drift")], ["-m", "circuit_drift"]):
        script = [sys.executable, *program, "--version"]
        done = subprocess.run(script, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
        assert done.stdout == f"circuit-drift {circuit_drift.__version__}\n"


def test_the_wheel_holds_every_file_of_the_four_packages_and_nothing_else(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    here = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    sources = {path.relative_to(ROOT).as_posix() for path in here if "__pycache__" not in path.parts}
    assert {name for name in names if ".dist-info/" not in name} == sources
    assert {"circuit_drift/page/report.html.j2", "circuit_drift/page/style.css"} <= set(names)
    assert {f"circuit_drift/schemas/{path.name}" for path in ROOT.glob("circuit_drift/schemas/*.json")} <= set(names)
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert wheel.stat().st_size < 2_000_000


@pytest.mark.parametrize(
    "statement",
    [
        "import checkpoints, heads, circuits, circuit_drift",
        "import circuit_drift.cli",
        "from circuit_drift import diff, load_run, run; from circuit_drift.api.pairs import compare",
        "from heads import Scores, diff, track; from heads.prompts.needles import load_needles",
        "from circuits import AttributionGraph, diff, track; from circuits.facts import load_facts",
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
        "circuit_drift.measures",
        "circuit_drift.training",
        "circuit_drift.training.strategies",
    ],
)
def test_what_a_package_offers_can_be_had_and_completed(name: str):
    package = importlib.import_module(name)
    assert len(package.__all__) >= 4
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
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for command in ("run", "diff", "report", "show"):
        assert f"\n  {command} " in done.stdout
