"""The null model of a run: what its measures find where there was no training, the floor of what they find after.

That is an untrained twin, where one was measured: a series shares one config, so that its result is stored once, and
every point refers to it. Else it is the run's own first checkpoint, if that counts step 0 and can do nothing that is
asked.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

import circuits
import heads
from checkpoints.results.result import Result
from circuit_drift.record.record import Point, RunRecord
from circuits.intervention.faithfulness import FaithfulnessCurve, has_effect

if TYPE_CHECKING:
    import pandas as pd

UNTRAINED = "untrained"
TWIN = "untrained twin"
PARTS: Mapping[str, type[Result]] = {
    "heads": heads.Scores,
    "circuit": circuits.AttributionGraph,
    "faithfulness": FaithfulnessCurve,
}


@dataclass(frozen=True, repr=False)
class UntrainedTwin(Result):
    """What is measured of a model of the same config with random weights.

    Attributes:
        parts: measure -> its result of the twin: some of ``heads``, ``circuit``, ``faithfulness``.
        meta: the seed of the weights.
    """

    artifact = "untrained_twin"
    title = "Untrained twin"
    on_disk: ClassVar[tuple[str, ...]] = ("circuit.scores",)
    needed: ClassVar[tuple[str, ...]] = ("seed",)

    parts: Mapping[str, Any]
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def point(self) -> Point:
        """The twin as if it were a checkpoint of the run, so that whatever reads a checkpoint reads it too."""
        key = self.meta.get("provenance", {}).get("key")
        keys = {} if key is None else {name: f"{key}-{name}" for name in self.parts}
        return Point(TWIN, None, None, None, keys=keys, results=self.parts)

    @property
    def verdict(self) -> str:
        """Its numbers in one sentence."""
        return f"untrained, the same model has {floor_words(self.point)}"

    def to_frame(self) -> "pd.DataFrame":
        """One row a number: quantity, value."""
        import pandas as pd

        return pd.DataFrame(readouts(self.point).items(), columns=["quantity", "value"])

    def _stored(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        stored = {name: part._stored() for name, part in self.parts.items()}
        arrays = {f"{name}.{path}": array for name, (_, found) in stored.items() for path, array in found.items()}
        return {"parts": {name: document for name, (document, _) in stored.items()}, "meta": dict(self.meta)}, arrays

    @classmethod
    def _restored(cls, document: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        parts = {}
        for name, own in document["parts"].items():
            within = {path.removeprefix(f"{name}."): found for path, found in arrays.items()
                      if path.startswith(f"{name}.")}  # fmt: skip
            parts[name] = PARTS[name]._restored(own, within)
        return cls(parts, document["meta"])


def untrained_twin(run: RunRecord) -> UntrainedTwin | None:
    """The twin that a run was measured beside; None where it was not asked for, or failed."""
    return next((point.results[UNTRAINED] for point in run if UNTRAINED in point.results), None)


def null_point(run: RunRecord) -> Point | None:
    """The null model as a point: the untrained twin, else a first checkpoint at step 0 that can do nothing yet.

    Such a one has no head that retrieves and no fact recalled, and its facts have no effect; a run that begins at a
    trained model has none.
    """
    twin = untrained_twin(run)
    if twin is not None:
        return twin.point
    first = run.points[0] if len(run) > 1 else None
    return first if first is not None and first.position == 0 and _blank(first) else None


def null_name(point: Point) -> str:
    """What figures call a null model."""
    return f"an {TWIN}" if point.name == TWIN else "step 0"


def _blank(point: Point) -> bool:
    scores, graph = point.heads, point.circuit
    if scores is None or graph is None:
        return False
    recalled = bool((graph.answer_rank == 0).any())
    return not (scores.count() or recalled or has_effect(graph.clean_metric, graph.corrupt_metric))


def floor_words(point: Point) -> str:
    """The numbers of a null model in words."""
    scores, graph, curve = point.heads, point.circuit, point.faithfulness
    told = []
    if scores is not None:
        told += [
            f"a best head score of {np.nanmax(scores.mean):.3f}",
            f"needle accuracy {scores.needle_accuracy:.2f}",
            f"answer perplexity {scores.answer_ppl:,.1f}",
        ]
    if graph is not None:
        told.append(f"recall {float((graph.answer_rank == 0).mean()):.2f}")
    if curve is not None:
        told.append(
            f"circuit faithfulness {curve.values[curve.drawn]:.2f}"
            if curve.has_effect
            else "no effect of the facts of which a circuit could keep a share"
        )
    return ", ".join(told)


def readouts(point: Point) -> dict[str, float]:
    """The numbers of a point that a twin is a floor of; those that were measured."""
    found: dict[str, float] = {}
    if (scores := point.heads) is not None:
        found |= {
            "best head score": float(np.nanmax(scores.mean)),
            "retrieval heads": float(scores.count()),
            "needle score": scores.needle_score,
            "needle accuracy": scores.needle_accuracy,
            "answer perplexity": scores.answer_ppl,
        }
    if (graph := point.circuit) is not None:
        found["recall"] = float((graph.answer_rank == 0).mean())
    if (curve := point.faithfulness) is not None:
        at = curve.drawn
        found |= {
            "clean minus corrupt metric": float(np.mean(curve.clean_metric - curve.corrupt_metric)),
            "faithfulness": effective(curve),
            "faithfulness of random circuits": curve.random_values[at] if curve.has_effect else float("nan"),
        }
    return found


def effective(curve: FaithfulnessCurve) -> float:
    """Faithfulness of the circuit that is drawn; NaN where there is no effect to keep a share of."""
    return curve.values[curve.drawn] if curve.has_effect else float("nan")
