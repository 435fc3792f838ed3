"""Who imports whom, read from the source: at the top, inside functions and for annotations alike."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import networkx as nx


def import_graph(root: Path, packages: Iterable[str]) -> nx.DiGraph:
    """A directed graph of the modules of some packages, an edge for every import between two of them.

    A name taken from a package is an import of the module that its stub gets the name from, where it has one.

    Args:
        root: folder that the packages lie in.
        packages: their names.
    """
    files = {module_name(root, path): path for name in packages for path in sorted((root / name).rglob("*.py"))}
    faces = {module: _face(module, path.with_suffix(".pyi"), files) for module, path in files.items()}
    graph = nx.DiGraph()
    for module, path in files.items():
        graph.add_node(module, path=path, lines=len(path.read_text(encoding="utf-8").splitlines()))
        for wanted, name in _imports(path):
            found = _found(wanted, name, files, faces)
            if found and found != module:
                graph.add_edge(module, found)
    return graph


def module_name(root: Path, path: Path) -> str:
    """Dotted name of a file; a package's is its folder's."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str, path: Path) -> str:
    """The folder a module lies in, dotted; what lies directly in a package is a room of its own."""
    inside = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return inside if "." in inside else module


def rooms(graph: nx.DiGraph, doors: Iterable[tuple[str, str]] = ()) -> nx.DiGraph:
    """Imports between rooms but for the doors, and for those of the packages' own faces, which import all rooms."""
    where = {module: room(module, path) for module, path in graph.nodes(data="path")}
    between = nx.DiGraph()
    for edge in graph.edges:
        start, end = (where[module] for module in edge)
        if "." in start and start != end and edge not in set(doors):
            between.add_edge(start, end)
    return between


def circles(graph: nx.DiGraph) -> list[list[str]]:
    """Groups of more than one node that all lead to each other."""
    return sorted(sorted(group) for group in nx.strongly_connected_components(graph) if len(group) > 1)


def _imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name taken from it) of every import, however deep; the name is empty where the module itself is."""
    for node in _statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: absolute imports only"
            yield from ((node.module or "", alias.name) for alias in node.names)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """All statements inside a node, without looking into expressions, which hold no import."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(node, name, []):
            yield child
            yield from _statements(child)


def _face(package: str, stub: Path, files: dict[str, Path]) -> dict[str, str]:
    """Name -> module that a lazy package gets it from, by its stub."""
    if not stub.exists():
        return {}
    taken = [node for node in ast.parse(stub.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
    found = {alias.asname or alias.name: f"{package}.{node.module}" for node in taken for alias in node.names}
    assert set(found.values()) <= set(files), f"{stub} names modules that are not there"
    return found


def _found(wanted: str, name: str, files: dict[str, Path], faces: dict[str, dict[str, str]]) -> str | None:
    if f"{wanted}.{name}" in files:
        return f"{wanted}.{name}"
    if wanted not in files:
        return None
    return faces[wanted].get(name, wanted)
