"""The tables of a pair, once for the terminal, the notebook, JSON and the report."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from circuit_drift.record.pair import PairRecord

if TYPE_CHECKING:
    import pandas as pd

    import circuits

TABLES = ("heads", "edges", "nodes", "similarity", "profile", "transfer", "roles")


@dataclass(frozen=True, slots=True)
class PairTable:
    """One table.

    Attributes:
        name: its key in JSON.
        title: its heading.
        frame: its rows, the strongest first where that means something.
    """

    name: str
    title: str
    frame: "pd.DataFrame"


def pair_tables(pair: PairRecord) -> Iterator[PairTable]:
    """Whatever was compared: heads, edges, nodes, similarity, depth and spread, transfer, roles."""
    if pair.heads is not None:
        columns = ["name", "before", "after", "delta", "low", "high", "q", "status"]
        yield PairTable("heads", "Retrieval heads, strongest changes", pair.heads.to_frame()[columns])
    if pair.circuit is not None:
        diff = pair.circuit
        yield PairTable("edges", "Edges, strongest real changes", _changed(diff.to_frame(), "edge", "status"))
        yield PairTable("nodes", "Nodes, strongest real changes", _changed(diff.node_frame(), "node", "in_a", "in_b"))
        yield PairTable("similarity", "Similarity of the two circuits", diff.similarity_frame())
        yield PairTable("profile", "Depth and spread of the graph", diff.profile_frame())
        if diff.transfer is not None:
            yield PairTable("transfer", "Each circuit in each model", diff.transfer.to_frame())
    if pair.roles is not None:
        yield PairTable("roles", "Roles gained and lost by heads of the circuits", role_frame(pair.roles))


def role_frame(changes: "tuple[circuits.RoleChange, ...]") -> "pd.DataFrame":
    """One row a change: head, role, change, in which share of the resamples the head has the role at A and at B, moved.

    ``moved``: whether the change is only that the head entered or left the circuit.
    """
    import pandas as pd

    rows = [asdict(change) for change in changes]
    frame = pd.DataFrame(rows, columns=["head", "role", "gained", "before", "after", "moved"])
    frame["gained"] = frame["gained"].map({True: "gained", False: "lost"})
    return frame.rename(columns={"gained": "change"})


def _changed(frame: "pd.DataFrame", name: str, *more: str) -> "pd.DataFrame":
    return frame.loc[frame["changed"], [name, "a", "b", "delta", "low", "high", "q", *more]]
