"""How much of what a model does its circuit does alone.

faithfulness = (m_circuit - m_corrupt) / (m_clean - m_corrupt), on means over the facts, where m is the metric (by
default the logit difference) and edges outside the circuit carry what the corrupt run wrote (Hanna et al. 2024).
1 = all of it, 0 = none; it can exceed 1, when parts that work against the answer are left out. Full circuit 1 and empty
circuit 0, exactly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from checkpoints.artifacts import read_artifact, write_artifact
from checkpoints.errors import BadPrompt, CheckpointMismatch
from circuits.graph import Circuit, GraphShape, require_same_shape, shape_document
from circuits.pruning import Rule, random_circuits
from circuits.scores import AttributionGraph

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from transformers import PreTrainedModel

    from circuits.ablation import Ablation
    from circuits.facts import FactSet
    from circuits.metrics import Metric, MetricName

Floats = NDArray[np.floating]
KIND = "faithfulness"
SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """One circuit's faithfulness.

    Attributes:
        value: on means over the facts; NaN where the clean and the corrupt mean are equal.
        low, high: 95 % bootstrap interval over the facts.
        n_edges: edges in the circuit, or parts of another unit.
        metric: [N] the circuit's metric, fact by fact.
        random: values of random circuits with as many edges.
        unit: what the circuit is made of.
    """

    value: float
    low: float
    high: float
    n_edges: int
    metric: Floats
    random: tuple[float, ...]
    unit: str = "edges"

    def __str__(self) -> str:
        beside = f"; random circuits of that size {np.mean(self.random):.2f}" if self.random else ""
        return (
            f"faithfulness {self.value:.2f} [{self.low:.2f}, {self.high:.2f}] with {self.n_edges} {self.unit}{beside}"
        )

    def _repr_html_(self) -> str:
        return f"<p>{self}</p>"


@dataclass(frozen=True, slots=True)
class FaithfulnessCurve:
    """Faithfulness at several sizes.

    Attributes:
        shares: [S] share of all edges each circuit starts from, before dead ends are removed.
        n_edges: [S] edges left.
        metric: [S, N] of each circuit, fact by fact.
        random_metric: [S, R, N] the same for random circuits with as many edges.
        clean_metric, corrupt_metric: [N] of the whole model.
        shape: the graph.
        meta: prompt hash, total number of edges, metric.
    """

    shares: tuple[float, ...]
    n_edges: NDArray[np.integer]
    metric: Floats
    random_metric: Floats
    clean_metric: Floats
    corrupt_metric: Floats
    shape: GraphShape
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> tuple[float, ...]:
        """S values of faithfulness."""
        return tuple(ratio(m, self.clean_metric, self.corrupt_metric) for m in self.metric)

    @property
    def intervals(self) -> tuple[tuple[float, float], ...]:
        """S bootstrap intervals."""
        return tuple(interval(m, self.clean_metric, self.corrupt_metric) for m in self.metric)

    @property
    def cpr(self) -> float:
        """Area under faithfulness over the share of edges, by trapezoids between the smallest and the largest share.

        With the default shares this is MIB's circuit performance ratio: a perfect circuit scores 0.999, and circuits
        that beat the model score more, so read it beside `cmd`.
        """
        return float(np.trapezoid(self.values, self.shares))

    @property
    def cmd(self) -> float:
        """Area between faithfulness and 1 over the share of edges: MIB's circuit-model distance, 0 = perfect."""
        return float(np.trapezoid(np.abs(1 - np.array(self.values)), self.shares))

    @property
    def random_values(self) -> tuple[float, ...]:
        """S mean values of the random circuits."""
        return tuple(
            float(np.mean([ratio(m, self.clean_metric, self.corrupt_metric) for m in draws])) if len(draws) else np.nan
            for draws in self.random_metric
        )

    def to_frame(self) -> "pd.DataFrame":
        """One row a size: share, n_edges, faithfulness, low, high, random."""
        import pandas as pd

        lows, highs = zip(*self.intervals, strict=True)
        return pd.DataFrame(
            {
                "share": self.shares,
                "n_edges": self.n_edges,
                "faithfulness": self.values,
                "low": lows,
                "high": highs,
                "random": self.random_values,
            }
        )

    def plot(self) -> "go.Figure":
        """Faithfulness against circuit size, random circuits beside it."""
        from circuits.plots import curve_figure

        return curve_figure(self)

    def save(self, folder: Path | str) -> Path:
        """Write the curve to a result folder."""
        names = ("n_edges", "metric", "random_metric", "clean_metric", "corrupt_metric")
        document = {"shares": list(self.shares), "shape": shape_document(self.shape), "meta": dict(self.meta)}
        return write_artifact(folder, KIND, document, {name: getattr(self, name) for name in names})

    @classmethod
    def load(cls, folder: Path | str) -> "FaithfulnessCurve":
        """Read what `save` wrote; needs no torch."""
        document, arrays = read_artifact(folder, KIND)
        shape = GraphShape(**document["shape"])
        return cls(shares=tuple(document["shares"]), shape=shape, meta=document["meta"], **arrays)

    def _repr_html_(self) -> str:
        return str("<p><b>Faithfulness</b></p>" + self.to_frame().to_html(index=False, border=0))


def faithfulness(
    model: "PreTrainedModel",
    circuit: Circuit,
    facts: "FactSet",
    *,
    metric: "MetricName | Metric" = "logit difference",
    ablation: "Ablation" = "corrupt",
    n_random: int = 3,
    batch_size: int = 8,
    seed: int = 0,
) -> Faithfulness:
    """Run a circuit alone, exactly, beside random circuits of its size.

    Args:
        model: the model it runs in.
        circuit: the edges that stay live.
        facts: what is asked.
        metric: as for `attribute`.
        ablation: what edges outside carry, as for `attribute`; the empty circuit under it takes m_corrupt's place.
        n_random: random circuits of its size.
        batch_size: facts in one pass.
        seed: of the random circuits.

    Raises:
        BadPrompt: the metric is not defined on these facts.
        CheckpointMismatch: the circuit belongs to another architecture.
        UnsupportedArchitecture: as for `attribute`.
    """
    rivals = random_circuits(circuit.shape, circuit.n_edges, n_random, seed=seed)
    metrics, clean, corrupt = circuit_metrics(
        model, [circuit, *rivals], facts, metric=metric, ablation=ablation, batch_size=batch_size
    )
    low, high = interval(metrics[0], clean, corrupt)
    return Faithfulness(
        value=ratio(metrics[0], clean, corrupt),
        low=low,
        high=high,
        n_edges=circuit.n_edges,
        metric=metrics[0],
        random=tuple(ratio(m, clean, corrupt) for m in metrics[1:]),
    )


def faithfulness_curve(
    model: "PreTrainedModel",
    graph: AttributionGraph,
    facts: "FactSet",
    *,
    shares: Sequence[float] = SHARES,
    metric: "MetricName | Metric" = "logit difference",
    ablation: "Ablation" = "corrupt",
    n_random: int = 1,
    batch_size: int = 8,
    seed: int = 0,
) -> FaithfulnessCurve:
    """Faithfulness of the pruned circuits of several sizes, beside random circuits with as many edges.

    Args:
        model: the model the circuits run in.
        graph: where the circuits are taken from.
        facts: what is asked.
        shares: share of the edges to start from, each in (0, 1].
        metric: as for `attribute`.
        ablation: as for `faithfulness`.
        n_random: random circuits for each size.
        batch_size: facts in one pass.
        seed: of the random circuits.

    Raises:
        BadPrompt: a share out of range.
        CheckpointMismatch: the graph belongs to another architecture.
    """
    if not shares or not all(0 < share <= 1 for share in shares):
        raise BadPrompt(f"shares must lie in (0, 1], got {tuple(shares)}")
    edges = int(graph.mask.sum())
    circuits = [graph.prune(max(1, int(share * edges))) for share in shares]
    rivals = [
        rival
        for i, circuit in enumerate(circuits)
        for rival in random_circuits(circuit.shape, circuit.n_edges, n_random, seed=seed + i)
    ]
    everything = [*circuits, *rivals]
    metrics, clean, corrupt = circuit_metrics(
        model, everything, facts, metric=metric, ablation=ablation, batch_size=batch_size
    )
    return FaithfulnessCurve(
        shares=tuple(shares),
        n_edges=np.array([circuit.n_edges for circuit in circuits]),
        metric=metrics[: len(circuits)],
        random_metric=metrics[len(circuits) :].reshape(len(circuits), n_random, len(facts)),
        clean_metric=clean,
        corrupt_metric=corrupt,
        shape=graph.shape,
        meta={"prompts": facts.hash, "edges": edges, "ablation": ablation},
    )


def minimal_circuit(
    model: "PreTrainedModel",
    graph: AttributionGraph,
    facts: "FactSet",
    *,
    least: float = 0.8,
    metric: "MetricName | Metric" = "logit difference",
    rule: Rule = "absolute",
    batch_size: int = 8,
) -> Circuit:
    """The smallest circuit found whose faithfulness is at least ``least``.

    The size is bisected, as if faithfulness only rose with it; where it does not, a smaller one may exist.

    Raises:
        BadPrompt: ``least`` beyond what the full circuit has, 1.
    """
    if not 0 < least <= 1:
        raise BadPrompt(f"least must lie in (0, 1], got {least}")
    low, high = 0, int(graph.mask.sum())
    best = graph.prune(high, rule=rule)
    while high - low > 1:
        middle = (low + high) // 2
        candidate = graph.prune(middle, rule=rule)
        metrics, clean, corrupt = circuit_metrics(model, [candidate], facts, metric=metric, batch_size=batch_size)
        if ratio(metrics[0], clean, corrupt) >= least:
            high, best = middle, candidate
        else:
            low = middle
    return best


def circuit_metrics(
    model: "PreTrainedModel",
    circuits: Sequence[Circuit],
    facts: "FactSet",
    *,
    metric: "MetricName | Metric" = "logit difference",
    ablation: "Ablation" = "corrupt",
    batch_size: int = 8,
) -> tuple[Floats, Floats, Floats]:
    """The metric of many circuits, exactly.

    Returns:
        [C, N] of the circuits, [N] of the clean run, and [N] of the empty circuit: under ``corrupt``, the corrupt run.
    """
    import torch

    from checkpoints.anatomy import anatomy
    from circuits.ablation import check_share, everywhere, fixed_values, replacement
    from circuits.attribution import graph_shape
    from circuits.contract import Writers
    from circuits.expansion import expanded, view_for
    from circuits.metrics import find_metric
    from circuits.mixed import Mixer
    from circuits.trace import batches, check_stream, frozen, run

    _name, measure = find_metric(metric, facts)
    parts = anatomy(model) if not circuits else view_for(anatomy(model), circuits[0].shape)
    shape = graph_shape(parts)
    for circuit in circuits:
        require_same_shape(circuit.shape, shape)
    device = next(model.parameters()).device
    metrics = np.zeros((len(circuits) + 2, len(facts)))
    with frozen(model), expanded(parts), torch.no_grad():
        fixed = fixed_values(parts, facts, ablation, batch_size)
        for number, batch in enumerate(batches(facts, batch_size, device)):
            corrupt = run(parts, batch, batch.corrupt)
            clean = run(parts, batch, batch.clean)
            if number == 0:
                check_stream(parts, clean)
                if fixed is not None:
                    check_share(parts, batch, clean)
            value = replacement(parts, batch, fixed, Writers.of(parts, corrupt))
            mixer = Mixer(parts, shape, everywhere(batch, fixed), corrupt, value, shortcut=fixed is None)
            masks = (torch.as_tensor(circuit.mask, device=device) for circuit in circuits)
            rows = [measure(mixer.logits(mask), batch, clean.logits) for mask in masks]
            empty = corrupt.logits
            if fixed is not None:
                empty = mixer.logits(torch.zeros(shape.mask.shape, dtype=torch.bool, device=device))
            rows += [measure(logits, batch, clean.logits) for logits in (clean.logits, empty)]
            metrics[:, list(batch.indices)] = torch.stack(rows).double().cpu().numpy()
    return metrics[:-2], metrics[-2], metrics[-1]


def ratio(metric: Floats, clean: Floats, corrupt: Floats) -> float:
    """Faithfulness on means, all [N]; NaN where clean and corrupt mean are equal."""
    for name, other in (("clean", clean), ("corrupt", corrupt)):
        if metric.shape != other.shape:
            raise CheckpointMismatch(f"{len(metric)} facts against {len(other)} {name} ones")
    whole = float(np.mean(clean) - np.mean(corrupt))
    return float(np.mean(metric) - np.mean(corrupt)) / whole if whole else float("nan")


def interval(
    metric: Floats, clean: Floats, corrupt: Floats, *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of `ratio`, the facts drawn again with replacement."""
    n = len(metric)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = (weights @ (metric - corrupt)) / (weights @ (clean - corrupt))
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
