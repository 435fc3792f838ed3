"""Two checkpoints compared: behaviour, heads, circuit, and one verdict.

Positive differences always mean that B has more than A. A change counts as real when its false-discovery-rate
controlled q value is below the stated level; a pair differs when any head or the graph as a whole changed for real.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints import CheckpointMismatch, DriftError, open_checkpoint
from checkpoints.loading.load import DeviceMap
from checkpoints.series.compat import require_same_model
from circuit_drift.comparison.transfer import TRANSFER, measure_transfer, stored_transfer
from circuit_drift.measures.measures import ATTENTION, MEASURES
from circuit_drift.measures.recall import recall_change, recalled, recalled_facts
from circuit_drift.prompts import Prompts, prompts_for
from circuit_drift.record.pair import PairRecord
from circuit_drift.record.record import Point, RunRecord
from circuit_drift.store.store import Store
from circuit_drift.sweep.sweep import measure_each

if TYPE_CHECKING:
    import circuits

PAIR_MEASURES = (*MEASURES, TRANSFER)


def measure_pair(
    a: Path | str,
    b: Path | str,
    *,
    store: Store | Path | str | None = None,
    prompts: Prompts | None = None,
    measures: Sequence[str] = PAIR_MEASURES,
    device: str = "auto",
    dtype: str = "float32",
    attention: str = ATTENTION,
    device_map: DeviceMap | None = None,
    q: float = 0.05,
    progress: bool = True,
) -> PairRecord:
    """Measure two checkpoints where that is not stored yet, and compare them; arguments and errors as for `diff`."""
    unknown = sorted(set(measures) - set(PAIR_MEASURES))
    if unknown:
        raise DriftError(f"unknown measure {', '.join(unknown)}; choose from {', '.join(PAIR_MEASURES)}")
    first, second = open_checkpoint(a), open_checkpoint(b)
    require_same_model(first, second)
    store = store if isinstance(store, Store) else Store.open(store)
    prompts = prompts or prompts_for(first.path)
    placement: dict[str, Any] = {"device": device, "dtype": dtype, "attention": attention, "device_map": device_map}
    needed = ["circuit"] if TRANSFER in measures else []
    wanted = [name for name in MEASURES if name in (*measures, *needed)]
    points = list(measure_each([first, second], store, prompts, measures=wanted, progress=progress, **placement))
    transfer, reason = None, {}
    if TRANSFER in measures and all(point.circuit is not None for point in points):
        try:
            transfer = measure_transfer([first, second], points, store, prompts, **placement)
        except DriftError as error:
            reason = {TRANSFER: str(error)}
    pair = compare_points(*points, q=q, transfer=transfer)
    return replace(pair, missing={**pair.missing, **reason})


def stored_pair(run: RunRecord, a: int | str, b: int | str, *, q: float = 0.05) -> PairRecord:
    """Two checkpoints of a run compared, with the transfer between them where it was measured."""
    pair = (run.at(a), run.at(b))
    return compare_points(*pair, q=q, transfer=stored_transfer(pair, Store(run.store)))


def compare_points(a: Point, b: Point, *, q: float = 0.05, transfer: "circuits.Transfer | None" = None) -> PairRecord:
    """Compare two measured checkpoints from their results alone; no model, no torch.

    Args:
        a: results at A.
        b: results at B.
        q: the false discovery rate the changes are held to.
        transfer: what each circuit does in the other model, where that was measured.

    Raises:
        CheckpointMismatch: they share no measure, or were measured on different prompts.
    """
    import circuits
    import heads

    missing = {}
    for measure in ("heads", "circuit"):
        lacking = [point for point in (a, b) if getattr(point, measure) is None]
        if lacking:
            missing[measure] = "; ".join(
                f"{point.name}: {point.failures.get(measure, 'not measured')}" for point in lacking
            )
    if len(missing) == 2:
        raise CheckpointMismatch(f"nothing to compare. heads: {missing['heads']}. circuit: {missing['circuit']}")
    compared = heads.compare(a.heads, b.heads, q=q) if a.heads is not None and b.heads is not None else None
    behaviour = [compared.accuracy, compared.nll] if compared is not None else []
    rewired, roles, facts = None, None, ""
    if a.circuit is not None and b.circuit is not None:
        behaviour.append(recall_change(a.circuit.answer_rank == 0, b.circuit.answer_rank == 0))
        (before, after), facts = recalled([a.circuit, b.circuit], "at A or B")
        rewired = circuits.diff(before, after, q=q)
        rewired = rewired if transfer is None else rewired.with_transfer(transfer)
        roles = _role_changes(a, b, rewired)
    changes = {"heads": compared, "circuit": rewired, "roles": roles}
    return PairRecord(
        a=a,
        b=b,
        q=q,
        behaviour=tuple(behaviour),
        changes={measure: change for measure, change in changes.items() if change is not None},
        facts=facts,
        missing=missing,
    )


def roles_of(point: Point) -> "circuits.HeadRoles | None":
    """A point's roles with what its retrieval scores add to them."""
    if point.roles is None or point.heads is None:
        return point.roles
    return point.roles.with_scores("retrieval", point.heads.detector(point.heads.leading))


def _role_changes(a: Point, b: Point, rewired: "circuits.GraphDiff") -> "tuple[circuits.RoleChange, ...] | None":
    """On the facts that the circuits are compared on."""
    from circuits.roles.roles import role_changes

    if a.circuit is None or b.circuit is None:
        return None
    before, after = roles_of(a), roles_of(b)
    if before is None or after is None:
        return None
    kept = recalled_facts([a.circuit, b.circuit])
    if kept is not None:
        before, after = before.only(kept), after.only(kept)
    return role_changes(before, after, circuits=(rewired.circuit_a, rewired.circuit_b))
