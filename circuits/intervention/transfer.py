"""Functional transfer: one checkpoint's circuit run in another checkpoint's model.

T[i, j] is the faithfulness of circuit i in model j. It tells drift of structure from drift of function: if A's circuit
is as faithful in B as B's own, the wiring that does the work has stayed, however different the two edge lists look.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt
from checkpoints.results.result import Result
from checkpoints.stats.units import Floats
from circuits.graph.circuit import Circuit
from circuits.intervention.faithfulness import NO_EFFECT, has_effect, interval, ratio
from circuits.intervention.faithfulness_measure import circuit_metrics

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from checkpoints.model.plain import Model
    from circuits.attribution.ablation import Ablation
    from circuits.facts.facts import FactSet
    from circuits.facts.metrics import Metric, MetricName

LOSS = 0.1


@dataclass(frozen=True, repr=False, slots=True)
class Transfer(Result):
    """Circuits of C checkpoints in the models of M checkpoints.

    Attributes:
        names: the C circuits.
        models: the M models.
        metric: [C, M, N] metric of circuit i in model j, fact by fact.
        clean_metric, corrupt_metric: [M, N] of the whole models.
        n_edges: [C] edges in each circuit.
        meta: prompt hash, metric, ablation.
    """

    artifact, title = "transfer", "Functional transfer"

    names: tuple[str, ...]
    models: tuple[str, ...]
    metric: Floats
    clean_metric: Floats
    corrupt_metric: Floats
    n_edges: NDArray[np.integer]
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> Floats:
        """[C, M] faithfulness of circuit i in model j; NaN in a model without an effect to keep."""
        effects = [has_effect(*self._whole(j)) for j in range(len(self.models))]
        return np.array(
            [
                [ratio(self.metric[i, j], *self._whole(j)) if effect else np.nan for j, effect in enumerate(effects)]
                for i in range(len(self.names))
            ]
        )

    def only(self, facts: NDArray[np.integer]) -> "Transfer":
        """The same over some of the facts, by their positions [M]."""
        return replace(
            self,
            metric=self.metric[:, :, facts],
            clean_metric=self.clean_metric[:, facts],
            corrupt_metric=self.corrupt_metric[:, facts],
        )

    def interval(self, circuit: int, model: int) -> tuple[float, float]:
        """95 % bootstrap interval of one entry, over the facts; NaN in a model without an effect to keep."""
        if not has_effect(*self._whole(model)):
            return float("nan"), float("nan")
        return interval(self.metric[circuit, model], *self._whole(model))

    def loss(self, circuit: int, model: int) -> tuple[float, float, float]:
        """How much less faithful a foreign circuit is than the model's own, with a paired bootstrap interval.

        Args:
            circuit: the foreign circuit's place.
            model: the model's place, and that of its own circuit.
        """
        gap = self.metric[model, model] - self.metric[circuit, model]
        clean, corrupt = self._whole(model)
        low, high = interval(gap + corrupt, clean, corrupt)
        return ratio(gap + corrupt, clean, corrupt), low, high

    @property
    def verdict(self) -> str:
        """For a pair: whether each circuit does the other's work."""
        return " ".join(self.sentences)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The same, one way and the other."""
        first, second = self.names[0], self.names[-1]
        pairs = ((0, len(self.models) - 1, first, second), (len(self.names) - 1, 0, second, first))
        return tuple(self._sentence(*pair) for pair in pairs)

    def to_frame(self) -> "pd.DataFrame":
        """One row an entry: circuit, model, n_edges, faithfulness, low, high."""
        import pandas as pd

        values = self.values
        rows = []
        for i, circuit in enumerate(self.names):
            for j, model in enumerate(self.models):
                rows.append((circuit, model, int(self.n_edges[i]), values[i, j], *self.interval(i, j)))
        return pd.DataFrame(rows, columns=["circuit", "model", "n_edges", "faithfulness", "low", "high"])

    def plot(self) -> "go.Figure":
        """The matrix as a heat map."""
        from circuits.intervention.transfer_view import transfer_figure

        return transfer_figure(self)

    def _whole(self, model: int) -> tuple[Floats, Floats]:
        return self.clean_metric[model], self.corrupt_metric[model]

    def _sentence(self, circuit: int, model: int, circuit_name: str, model_name: str) -> str:
        what, value = self.meta.get("metric", "logit difference"), self.values[circuit, model]
        if not has_effect(*self._whole(model)):
            return f"What the circuit of {circuit_name} keeps of the {what} in {model_name} is {NO_EFFECT}."
        low, high = self.interval(circuit, model)
        loss, loss_low, loss_high = self.loss(circuit, model)
        if np.isnan(loss_low):
            return (
                f"The circuit of {circuit_name} keeps {value:.2f} of the {what} in {model_name}, whose own keeps "
                f"{self.values[model, model]:.2f}: too few facts for an interval."
            )
        if loss_low > LOSS:
            sense = "the function has moved"
        elif loss_high < LOSS:
            sense = "it still does the work"
        else:
            sense = "undecided on these facts"
        return (
            f"The circuit of {circuit_name} keeps {value:.2f} [{low:.2f}, {high:.2f}] of the {what} in {model_name}, "
            f"whose own keeps {self.values[model, model]:.2f} (change {_signed(-loss)} [{_signed(-loss_high)}, "
            f"{_signed(-loss_low)}], margin {-LOSS:g}): {sense}."
        )


def _signed(change: float) -> str:
    """To two digits; one that rounds to nothing has no minus."""
    return f"{round(change, 2) + 0.0:+.2f}"


def transfer(
    models: "Iterable[Model]",
    circuits: Sequence[Circuit],
    facts: "FactSet",
    *,
    names: Sequence[str] | None = None,
    metric: "MetricName | Metric" = "logit difference",
    ablation: "Ablation" = "corrupt",
    batch_size: int = 8,
) -> Transfer:
    """Run every circuit in every model, exactly.

    Args:
        models: one after the other; an iterator keeps only one alive.
        circuits: one of each model, in the same order.
        facts: what is asked.
        names: of the checkpoints; by default A, B, ...
        metric: as for `circuits.attribute`.
        ablation: what edges outside carry, as for `circuits.faithfulness`.
        batch_size: facts in one pass.

    Raises:
        BadPrompt: numbers of models, circuits and names differ.
        CheckpointMismatch: a circuit belongs to another architecture.
    """
    from circuits.facts.metrics import find_metric

    names = tuple(names or (chr(ord("A") + i) for i in range(len(circuits))))
    how: Any = {"metric": metric, "ablation": ablation, "batch_size": batch_size}
    ask = partial(circuit_metrics, circuits=circuits, facts=facts, **how)
    rows = [*map(ask, models)]  # a loop's variable would hold a model while the next one is loaded
    if not len(rows) == len(circuits) == len(names):
        raise BadPrompt(f"transfer needs one circuit and one name for each model; got {len(rows)} models, "
                        f"{len(circuits)} circuits, {len(names)} names")  # fmt: skip
    return Transfer(
        names=names,
        models=names,
        metric=np.stack([metrics for metrics, _, _ in rows], axis=1),
        clean_metric=np.stack([clean for _, clean, _ in rows]),
        corrupt_metric=np.stack([corrupt for _, _, corrupt in rows]),
        n_edges=np.array([circuit.n_edges for circuit in circuits]),
        meta={"prompts": facts.hash, "metric": find_metric(metric, facts)[0], "ablation": ablation},
    )
