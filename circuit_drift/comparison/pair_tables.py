"""The tables of a pair, once for the terminal, the notebook, JSON and the report."""

from collections.abc import Iterable, Iterator, Sequence

from circuit_drift.measures.base import Measure
from circuit_drift.measures.pairs.pairing import Pairing, PairTable
from circuit_drift.measures.registry import MEASURES, find, known
from circuit_drift.record.pair import PairRecord
from circuit_drift.record.record import Point


def comparable(points: Sequence[Point]) -> Iterator[type[Measure]]:
    """The measures that compare two results: those a run takes by default, and those that the points have or lack.

    In the order of `known`.
    """
    present = {name for point in points for name in (*point.results, *point.failures)}
    for name in known():
        kind = find(name) if name in (*MEASURES, *present) else None
        if kind is not None and kind.pairing is not None:
            yield kind


def pairings(pair: PairRecord) -> Iterator[Pairing]:
    """How each measure tells what changed, for those that were compared, in the order of `known`."""
    for kind in comparable((pair.a, pair.b)):
        if kind.name in pair.changes and kind.pairing is not None:
            yield kind.pairing


def table_names(pair: PairRecord) -> tuple[str, ...]:
    """The names of all tables that a pair may have."""
    kinds: Iterable[type[Measure]] = comparable((pair.a, pair.b))
    return tuple(name for kind in kinds if kind.pairing is not None for name in kind.pairing.tables)


def pair_tables(pair: PairRecord) -> Iterator[PairTable]:
    """Whatever was compared: heads, edges, nodes, similarity, depth and spread, transfer, roles, and others'."""
    for pairing in pairings(pair):
        yield from pairing.frames(pair)
