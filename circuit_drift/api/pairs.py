"""A pair as a user holds it: the record, and how it is told, shown and kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from checkpoints.errors import CheckpointMismatch
from checkpoints.placement import Placement, Where
from circuit_drift.comparison.pair import PAIR_MEASURES, compare_points, measure_pair
from circuit_drift.measures.base import Measure
from circuit_drift.prompts import Prompts
from circuit_drift.record.pair import PairRecord
from circuit_drift.record.questions import Deltas
from circuit_drift.record.record import Point
from circuit_drift.report import write_pair_report
from circuit_drift.report.pair_view import pair_html, pair_json
from circuit_drift.report.verdict_pair import pair_verdict
from circuit_drift.store.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from circuits.intervention.transfer import Transfer


@dataclass(frozen=True, slots=True, repr=False)
class PairDiff(PairRecord):
    """What changed from checkpoint A to checkpoint B; fields as of `PairRecord`."""

    @classmethod
    def of(cls, record: PairRecord) -> "PairDiff":
        """The pair of a record."""
        return cls(**{field.name: getattr(record, field.name) for field in fields(record)})

    @property
    def verdict(self) -> tuple[str, ...]:
        """A few sentences, every number in them computed."""
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
        return pair_json(self)

    def __repr__(self) -> str:
        return f"<PairDiff of {self.a.place} and {self.b.place}: {' '.join(self.verdict)}>"

    def _repr_html_(self) -> str:
        return pair_html(self)

    def write_html(self, path: Path | str) -> Path:
        """Write the pair's own self-contained report."""
        return write_pair_report(self, path)


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
        where: fields of a placement by themselves: ``device="cuda"``, ``dtype="bfloat16"``.

    Raises:
        NotACheckpoint, CorruptWeights: one of them cannot be opened or loaded.
        CheckpointMismatch: they differ in shape or tokenizer, or no measure worked on both.
        DriftError: an unknown measure.
    """
    return PairDiff.of(
        measure_pair(
            a,
            b,
            store=store,
            prompts=prompts,
            measures=measures,
            placement=Placement.of(placement, where),
            q=q,
            progress=progress,
            delta=delta,
        )
    )


def compare(
    a: Point,
    b: Point,
    *,
    q: float = 0.05,
    transfer: "Transfer | None" = None,
    delta: Mapping[str, float] | Deltas | None = None,
) -> PairDiff:
    """Compare two measured checkpoints from their results alone; no model, no torch.

    Args:
        a: results at A.
        b: results at B.
        q: the level of the pair, as for `diff`.
        transfer: what each circuit does in the other model, where that was measured.
        delta: as for `diff`.

    Raises:
        CheckpointMismatch: they share no measure, or were measured on different prompts.
    """
    return PairDiff.of(compare_points(a, b, q=q, transfer=transfer, delta=delta))
