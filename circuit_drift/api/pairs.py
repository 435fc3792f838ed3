"""A pair as a user holds it: the record, and how it is told, shown and kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from checkpoints import open_checkpoint
from checkpoints.errors import BadPrompt, CheckpointMismatch, DriftError
from checkpoints.placement import Placement, Where
from checkpoints.results.text import bulleted
from circuit_drift.api.shown import figure_of, first_figure, show
from circuit_drift.comparison.pair import PAIR_MEASURES, compare_points, measure_pair
from circuit_drift.explanation.explanation import DEFAULT_EFFORT, Effort
from circuit_drift.measures.base import Measure
from circuit_drift.page.page import Figures
from circuit_drift.prompts import Prompts
from circuit_drift.record.pair import PairRecord
from circuit_drift.record.questions import Deltas
from circuit_drift.record.record import Point
from circuit_drift.report import pair_sections, write_pair_report
from circuit_drift.report.pair_view import pair_html, pair_json
from circuit_drift.report.verdict_pair import pair_statements, pair_verdict
from circuit_drift.statements.statement import Statement
from circuit_drift.store.store import Store

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from circuit_drift.explanation.behaviours import Behaviour
    from circuit_drift.explanation.explanation import Explanation
    from circuits.intervention.transfer import Transfer


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a pair's checkpoints are and what they were asked, for what needs their models again."""

    a: Path | str
    b: Path | str
    prompts: Prompts | None
    placement: Placement
    store: Store


@dataclass(frozen=True, slots=True, repr=False)
class PairDiff(PairRecord):
    """What changed from checkpoint A to checkpoint B; fields as of `PairRecord`.

    Attributes:
        origin: where the checkpoints are; ``None`` for a pair of a stored run.
    """

    origin: Origin | None = None

    @classmethod
    def of(cls, record: PairRecord, origin: Origin | None = None) -> "PairDiff":
        """The pair of a record."""
        return cls(**{field.name: getattr(record, field.name) for field in fields(record)}, origin=origin)

    @property
    def verdict(self) -> tuple[str, ...]:
        """A few sentences, every number in them computed."""
        return pair_verdict(self)

    @property
    def statements(self) -> tuple[Statement, ...]:
        """The same as values: kind, numbers, what they rest on, and their words in ``text``."""
        return pair_statements(self)

    def to_frame(self) -> "pd.DataFrame":
        """The edges of both circuits with their changes; heads are in ``.heads.to_frame()``.

        Raises:
            CheckpointMismatch: no circuit was compared.
        """
        if self.circuit is None:
            raise CheckpointMismatch(f"no circuits were compared: {self.missing.get('circuit', 'not asked for')}")
        return self.circuit.to_frame()

    def explain(self, behaviour: "str | Behaviour" = "needle", *, effort: Effort = DEFAULT_EFFORT) -> "Explanation":
        """Which component's weights made a behaviour change, proved by putting them back.

        Args:
            behaviour: as for `circuit_drift.explain`.
            effort: prompts, steps, patching.

        Raises:
            BadPrompt: a pair of a stored run, which does not know where its checkpoints are; or no such behaviour.
        """
        if self.origin is None:
            raise BadPrompt(
                f"the pair {self.span} comes from stored results and has no models; "
                "use circuit_drift.explain(A, B) with the checkpoints themselves"
            )
        from circuit_drift.explanation.explain import explain as explain_pair

        origin = self.origin
        graphs = [point.circuit for point in (self.a, self.b) if point.circuit is not None]
        return explain_pair(
            origin.a,
            origin.b,
            behaviour,
            prompts=origin.prompts,
            placement=origin.placement,
            effort=effort,
            graphs=graphs,
            store=origin.store,
        )

    def explained(self, behaviour: "str | Behaviour" = "needle", *, effort: Effort = DEFAULT_EFFORT) -> "PairDiff":
        """The same pair with an explanation, which its JSON, page and notebook show; arguments as for `explain`."""
        return replace(self, explanations=(*self.explanations, self.explain(behaviour, effort=effort)))

    def to_json(self) -> dict[str, Any]:
        """One JSON object: who, verdict, behaviour, heads, edges, similarity."""
        return pair_json(self)

    def __repr__(self) -> str:
        return bulleted(f"PairDiff of {self.a.place} and {self.b.place}", self.verdict, ".verdict")

    def plot(self) -> "go.Figure":
        """What rewired, or where no circuits were compared the retrieval heads that changed.

        Raises:
            DriftError: nothing that was compared has a figure.
        """
        return self.circuit.plot() if self.circuit is not None else self.figure("heads-pair")

    def figure(self, name: str) -> "go.Figure":
        """A figure of the pair's report by its anchor, as in ``circuit-pair`` or ``heads-pair``.

        Raises:
            DriftError: no such figure; the message lists those that there are.
        """
        return figure_of(pair_sections(self), name)

    def _repr_html_(self) -> str:
        return pair_html(self)

    def _ipython_display_(self) -> None:
        show(pair_html(self), first_figure(pair_sections(self)) if self.circuit is None else self.circuit.plot())

    def write_html(self, path: Path | str, *, figures: Figures = "interactive") -> Path:
        """Write the pair's own self-contained report; ``figures="svg"`` for pictures (the extra ``images``)."""
        return write_pair_report(self, path, figures=figures)


def diff(
    a: Path | str,
    b: Path | str,
    *,
    store: Store | Path | str | None = None,
    prompts: Prompts | None = None,
    measures: Sequence[str | Measure] = PAIR_MEASURES,
    placement: Placement | None = None,
    q: float = 0.05,
    progress: bool = True,
    delta: Mapping[str, float] | Deltas | None = None,
    floor: Sequence[Path | str] = (),
    cluster: Sequence[str] = (),
    **where: Unpack[Where],
) -> PairDiff:
    """Compare two checkpoints, measuring what is not stored yet.

    Args:
        a: a checkpoint folder in Hugging Face format, or ``SERIES@STEP``.
        b: the other one.
        store: where results are kept and looked up first.
        prompts: what is asked; by default what the folder of A brings along, else the built-in prompts.
        measures: as for `circuit_drift.run`, and ``transfer``, which runs each circuit in both models.
        placement: device, dtype, attention implementation and device map (`checkpoints.Placement`).
        q: the level of the pair: the chance that any difference named is none, and the false discovery rate of heads
            and edges.
        progress: show a progress bar where there is a terminal or a notebook.
        delta: margins below which a change counts as none, by name (``recall``, ``heads``, ``nll``, ``wiring``,
            ``strength``, ``edge``), beside the defaults of `circuit_drift.record.questions.Deltas`.
        floor: siblings of A (other seeds or data orders, or steps beside it): the pair is held against the changes
            among them, which are what training does anyway (`PairDiff.floor`, `PairDiff.exceeds_floor`).
        cluster: labels of facts, as ``["relation"]``: facts that agree in them are one unit of recall and of
            circuits, since they are not independent; by default every fact is a unit. Needles have no such labels.
        where: fields of a placement by themselves: ``device="cuda"``, ``dtype="bfloat16"``.

    Raises:
        NotACheckpoint, CorruptWeights: one of them cannot be opened or loaded.
        CheckpointMismatch: they differ in shape or tokenizer, or no measure worked on both.
        DriftError: an unknown measure.
    """
    from circuit_drift.weights.stored import kept_weight_change

    placed = Placement.of(placement, where)
    record = measure_pair(
        a,
        b,
        store=store,
        prompts=prompts,
        measures=measures,
        placement=placed,
        q=q,
        progress=progress,
        delta=delta,
        floor=floor,
        cluster=cluster,
    )
    kept = store if isinstance(store, Store) else Store.open(store)
    try:
        record = replace(record, weights=kept_weight_change(open_checkpoint(a), open_checkpoint(b), kept))
    except DriftError as error:
        record = replace(record, missing={**record.missing, "weights": str(error)})
    return PairDiff.of(record, Origin(a, b, prompts, placed, kept))


def explain(
    a: Path | str,
    b: Path | str,
    behaviour: "str | Behaviour" = "needle",
    *,
    prompts: Prompts | None = None,
    placement: Placement | None = None,
    effort: Effort = DEFAULT_EFFORT,
    store: Store | Path | str | None = None,
    **where: Unpack[Where],
) -> "Explanation":
    """Which component's weights made a behaviour differ between two checkpoints, proved by putting them back.

    Args:
        a: a checkpoint folder in Hugging Face format, or ``SERIES@STEP``.
        b: the other one, of the same shape.
        behaviour: ``needle`` (NLL of needles' answers, in nats), ``accuracy`` (theirs, by patching alone), ``facts``
            (logit difference) or ``log-probability`` of facts, either with ``:GROUP`` (a label's value, else ``kept``,
            ``lost``, ``learned`` or ``neither``, by recall at both), ``text`` (NLL of the haystack's
            text), a head as ``a18.h6`` (its attention on the needle), or a
            `circuit_drift.explanation.behaviours.Behaviour` of one's own.
        prompts: what is asked; by default what the folder of A brings along, else the built-in prompts.
        placement: device, attention implementation and device map (`checkpoints.Placement`); float32.
        effort: at most so many prompts, how many steps, whether to patch.
        store: where explanations are kept and looked up first; ``None`` = nowhere.
        where: fields of a placement by themselves.

    Raises:
        CheckpointMismatch: they differ in shape, tokenizer or ties.
        UnsupportedArchitecture: parts that cannot be told apart, or quantised weights.
        BadPrompt: no such behaviour, or nothing to ask.
    """
    from circuit_drift.explanation.explain import explain as explain_pair

    placed = Placement.of(placement, where)
    kept = store if store is None or isinstance(store, Store) else Store.open(store)
    return explain_pair(a, b, behaviour, prompts=prompts, placement=placed, effort=effort, store=kept)


def compare(
    a: Point,
    b: Point,
    *,
    q: float = 0.05,
    transfer: "Transfer | None" = None,
    delta: Mapping[str, float] | Deltas | None = None,
    floor: Sequence[Point] = (),
    cluster: Sequence[str] = (),
) -> PairDiff:
    """Compare two measured checkpoints from their results alone; no model, no torch.

    Args:
        a: results at A.
        b: results at B.
        q: the level of the pair, as for `diff`.
        transfer: what each circuit does in the other model, where that was measured.
        delta: as for `diff`.
        floor: siblings of A, measured.
        cluster: labels of facts that are one unit, as for `diff`.

    Raises:
        CheckpointMismatch: they share no measure, or were measured on different prompts.
    """
    return PairDiff.of(compare_points(a, b, q=q, transfer=transfer, delta=delta, floor=floor, cluster=cluster))
