"""Two checkpoints compared: behaviour, heads, circuit, and one verdict.

Positive differences always mean that B has more than A. A change counts as real when its false-discovery-rate
controlled q value is below the stated level; a pair differs when any head or the graph as a whole changed for real.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints import CheckpointMismatch, DriftError, open_checkpoint
from checkpoints.loading.load import DeviceMap
from checkpoints.series.compat import require_same_model
from circuit_drift.comparison.recall import recall_change, recalled, recalled_facts
from circuit_drift.comparison.transfer import TRANSFER, measure_transfer
from circuit_drift.measures.measures import ATTENTION, MEASURES
from circuit_drift.prompts import Prompts, prompts_for
from circuit_drift.store.store import Store
from circuit_drift.sweep.sweep import Point, measure_each

if TYPE_CHECKING:
    import pandas as pd

    import circuits
    import heads
    from heads import Change

PAIR_MEASURES = (*MEASURES, TRANSFER)


@dataclass(frozen=True, slots=True)
class PairDiff:
    """What changed from checkpoint A to checkpoint B.

    Attributes:
        a, b: the two measured checkpoints.
        q: the false discovery rate the changes are held to.
        behaviour: needle accuracy, answer NLL, fact recall.
        heads: head by head, or ``None``.
        circuit: edge by edge, or ``None``.
        roles: the roles that heads of the circuits gained and lost, or ``None``.
        facts: which facts the circuits are compared on.
        missing: measure -> why it is not compared.
    """

    a: Point
    b: Point
    q: float
    behaviour: "tuple[Change, ...]"
    heads: "heads.HeadComparison | None"
    circuit: "circuits.GraphDiff | None"
    roles: "tuple[circuits.RoleChange, ...] | None" = None
    facts: str = ""
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def significant(self) -> bool:
        """Whether any head, needle readout, or the graph as a whole changed beyond noise."""
        return any(part is not None and part.significant for part in (self.heads, self.circuit))

    @property
    def verdict(self) -> tuple[str, ...]:
        """A few sentences, every number in them computed."""
        from circuit_drift.report.verdict import pair_verdict

        return pair_verdict(self)

    def to_frame(self) -> "pd.DataFrame":
        """The edges of both circuits with their changes; heads are in ``.heads.to_frame()``.

        Raises:
            CheckpointMismatch: no circuit was compared.
        """
        if self.circuit is None:
            raise CheckpointMismatch(f"no circuits were compared: {self.missing.get('circuit', 'not asked for')}")
        return self.circuit.to_frame()

    def to_json(self) -> dict[str, Any]:
        """One JSON object: who, verdict, behaviour, heads, edges, similarity."""
        from circuit_drift.cli.render import pair_json

        return pair_json(self)

    def _repr_html_(self) -> str:
        from circuit_drift.cli.render import pair_html

        return pair_html(self)

    def write_html(self, path: Path | str) -> Path:
        """Write the pair's own self-contained report."""
        from circuit_drift.report import write_pair_report

        return write_pair_report(self, path)


def diff(
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
) -> PairDiff:
    """Compare two checkpoints, measuring what is not stored yet.

    Args:
        a: a checkpoint folder in Hugging Face format, or ``SERIES@STEP``.
        b: the other one.
        store: where results are kept and looked up first.
        prompts: what is asked; by default what the folder of A brings along, else the built-in prompts.
        measures: which of ``heads``, ``circuit``, ``faithfulness``, ``roles``, and ``transfer``, which runs each
            circuit in both models.
        device: a torch device, or ``auto``.
        dtype: the dtype of the forward passes.
        attention: transformers' attention implementation.
        device_map: in place of `device`, for models that are larger than one; see `circuit_drift.run`.
        q: the false discovery rate the changes are held to.
        progress: show a progress bar where there is a terminal or a notebook.

    Raises:
        NotACheckpoint, CorruptWeights: one of them cannot be opened or loaded.
        CheckpointMismatch: they differ in shape or tokenizer, or no measure worked on both.
        DriftError: an unknown measure.
    """
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
    pair = compare(*points, q=q, transfer=transfer)
    return replace(pair, missing={**pair.missing, **reason})


def compare(a: Point, b: Point, *, q: float = 0.05, transfer: "circuits.Transfer | None" = None) -> PairDiff:
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
    return PairDiff(
        a=a,
        b=b,
        q=q,
        behaviour=tuple(behaviour),
        heads=compared,
        circuit=rewired,
        roles=roles,
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
