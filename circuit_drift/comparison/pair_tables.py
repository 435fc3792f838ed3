"""The tables of a pair, once for the terminal, the notebook, JSON and the report."""

from collections.abc import Iterator, Sequence

from circuit_drift.measures.pairs.pairing import Pairing, PairTable
from circuit_drift.measures.registry import MEASURES, find, known
from circuit_drift.record.pair import PairRecord
from circuit_drift.record.record import Point


def comparable(points: Sequence[Point]) -> dict[str, Pairing]:
    """How two results of a measure are compared, by its name and in the order of `known`.

    For the measures that a run takes by default, and those that the points have or lack.
    """
    present = {name for point in points for name in (*point.results, *point.failures)}
    kinds = (find(name) for name in known() if name in (*MEASURES, *present))
    return {kind.name: kind.pairing for kind in kinds if kind is not None and kind.pairing is not None}


def pairings(pair: PairRecord) -> dict[str, Pairing]:
    """How each measure tells what changed, for those that were compared, in the order of `known`."""
    return {name: pairing for name, pairing in comparable((pair.a, pair.b)).items() if name in pair.changes}


def table_names(pair: PairRecord) -> tuple[str, ...]:
    """The names of all tables that a pair may have."""
    return tuple(name for pairing in comparable((pair.a, pair.b)).values() for name in pairing.tables)


def pair_tables(pair: PairRecord) -> Iterator[PairTable]:
    """Whatever was compared: heads, edges, nodes, similarity, depth and spread, transfer, roles, and others'."""
    for pairing in pairings(pair).values():
        yield from pairing.frames(pair)
