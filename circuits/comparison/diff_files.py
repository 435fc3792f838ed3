"""Diffs on disk: one result folder, the two circuits and the transfer in folders inside it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from checkpoints.results.artifacts import read_artifact, write_artifact
from circuits.comparison.comparison import GraphDiff
from circuits.comparison.noise import EdgeTests
from circuits.comparison.profile import ProfileChange
from circuits.comparison.similarity import Similarity
from circuits.graph.graph import Circuit, GraphShape, shape_document
from circuits.intervention.transfer import Transfer
from circuits.roles.roles import RoleChange

KIND = "graph_diff"
ARRAYS = ("a", "b", "nodes_a", "nodes_b")
NUMBERS = ("global_p", "pairing", "n", "level")
CIRCUITS = ("circuit_a", "circuit_b")
TESTS = ("tests", "node_tests")
COLUMNS = ("delta", "low", "high", "p", "q")


def save_diff(diff: GraphDiff, folder: Path | str) -> Path:
    """Write a diff, with its transfer and roles where it has them."""
    arrays = {name: getattr(diff, name) for name in ARRAYS}
    arrays |= {f"{tests}.{column}": getattr(getattr(diff, tests), column) for tests in TESTS for column in COLUMNS}
    document = {name: getattr(diff, name) for name in NUMBERS}
    document |= {"shape": shape_document(diff.shape), "meta": dict(diff.meta), "totals": list(diff.totals)}
    document |= {"profile": [asdict(p) for p in diff.profile], "similarity": [asdict(s) for s in diff.similarity]}
    document["roles"] = None if diff.roles is None else [asdict(change) for change in diff.roles]
    folder = write_artifact(folder, KIND, document, arrays)
    for name in CIRCUITS:
        getattr(diff, name).save(folder / name)
    if diff.transfer is not None:
        diff.transfer.save(folder / "transfer")
    return folder


def load_diff(folder: Path | str) -> GraphDiff:
    """Read what `save_diff` wrote."""
    folder = Path(folder)
    document, arrays = read_artifact(folder, KIND)
    roles, transfer = document["roles"], folder / "transfer"
    values: dict[str, Any] = {name: document[name] for name in (*NUMBERS, "meta")}
    values |= {name: arrays[name] for name in ARRAYS}
    values |= {name: EdgeTests(*(arrays[f"{name}.{column}"] for column in COLUMNS)) for name in TESTS}
    values |= {name: Circuit.load(folder / name) for name in CIRCUITS}
    return GraphDiff(
        shape=GraphShape(**document["shape"]),
        totals=tuple(document["totals"]),
        profile=tuple(ProfileChange(**value) for value in document["profile"]),
        similarity=tuple(Similarity(**value) for value in document["similarity"]),
        roles=None if roles is None else tuple(RoleChange(**value) for value in roles),
        transfer=Transfer.load(transfer) if transfer.is_dir() else None,
        **values,
    )
