"""How much of what a model does its circuit does alone.

faithfulness = (m_circuit - m_corrupt) / (m_clean - m_corrupt), on means over the facts, where m is the metric (by
default the logit difference) and edges outside the circuit carry what the corrupt run wrote (Hanna et al. 2024).
1 = all of it, 0 = none; it can exceed 1, when parts that work against the answer are left out. Full circuit 1 and empty
circuit 0, exactly.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from checkpoints.errors import BadPrompt
from checkpoints.model.plain import takes_model
from checkpoints.stats.units import Floats
from circuits.graph.circuit import Circuit
from circuits.graph.pruning import PruneRule, random_circuits
from circuits.graph.scores import AttributionGraph
from circuits.graph.shape import require_same_shape
from circuits.intervention.faithfulness import Faithfulness, FaithfulnessCurve, ratio

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from circuits.attribution.ablation import Ablation
    from circuits.facts.facts import FactSet
    from circuits.facts.metrics import Metric, MetricName

HALVED_FROM = 4
"""Facts that two halves take, of two each."""
SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@takes_model
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
    from circuits.facts.metrics import find_metric

    rivals = random_circuits(circuit.shape, circuit.n_edges, n_random, seed=seed)
    metrics, clean, corrupt = circuit_metrics(
        model, [circuit, *rivals], facts, metric=metric, ablation=ablation, batch_size=batch_size
    )
    return Faithfulness(
        n_edges=circuit.n_edges,
        metric=metrics[0],
        random_metric=metrics[1:],
        clean_metric=clean,
        corrupt_metric=corrupt,
        meta={"prompts": facts.hash, "metric": find_metric(metric, facts)[0], "ablation": ablation},
    )


@takes_model
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

    Where the graph is of these very facts, kept fact by fact, and they can be halved, it is cross-fitted too: circuits
    are found on one half and judged on the other, both ways (`cross_fitted`).

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
    from circuits.facts.metrics import find_metric

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
        meta={
            "prompts": facts.hash,
            "edges": edges,
            "metric": find_metric(metric, facts)[0],
            "ablation": ablation,
            **({"circuit_edges": graph.circuit_edges} if "circuit_edges" in graph.meta else {}),
        },
        cross_metric=cross_fitted(model, graph, facts, shares=shares, metric=metric, batch_size=batch_size, seed=seed)
        if ablation == "corrupt" and _can_be_halved(graph, facts)
        else None,
    )


def _can_be_halved(graph: AttributionGraph, facts: "FactSet") -> bool:
    own = graph.meta.get("prompts") == facts.hash
    return own and graph.units == len(graph) == len(facts) >= HALVED_FROM


@takes_model
def cross_fitted(
    model: "PreTrainedModel",
    graph: AttributionGraph,
    facts: "FactSet",
    *,
    shares: Sequence[float] = SHARES,
    metric: "MetricName | Metric" = "logit difference",
    batch_size: int = 8,
    seed: int = 0,
) -> Floats:
    """The metric of every fact in circuits that were found without it: on the other half of the facts.

    Edges outside the circuit carry what the corrupt run wrote.

    Args:
        model: the model the circuits run in.
        graph: of these facts, its scores kept fact by fact.
        facts: what is asked.
        shares: share of the edges to start from, each in (0, 1].
        metric: as for `attribute`.
        batch_size: facts in one pass.
        seed: of the halves.

    Returns:
        [S, N] of each size, fact by fact.

    Raises:
        BadPrompt: scores of groups of facts.
    """
    edges = int(graph.mask.sum())
    order = np.random.default_rng(seed).permutation(len(facts))
    halves = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    found = np.empty((len(shares), len(facts)))
    for known, asked in (halves, halves[::-1]):
        half = graph.only(known)
        circuits = [half.prune(max(1, int(share * edges))) for share in shares]
        others = facts.subset(asked.tolist())
        found[:, asked] = circuit_metrics(model, circuits, others, metric=metric, batch_size=batch_size)[0]
    return found


@takes_model
def minimal_circuit(
    model: "PreTrainedModel",
    graph: AttributionGraph,
    facts: "FactSet",
    *,
    least: float = 0.8,
    metric: "MetricName | Metric" = "logit difference",
    ablation: "Ablation" = "corrupt",
    rule: PruneRule = "absolute",
    batch_size: int = 8,
) -> Circuit:
    """The smallest circuit found whose faithfulness is at least ``least``.

    The size is bisected, as if faithfulness only rose with it; where it does not, a smaller one may exist.

    Raises:
        BadPrompt: ``least`` beyond what the full circuit has, 1, or facts on which faithfulness is not defined.
    """
    if not 0 < least <= 1:
        raise BadPrompt(f"least must lie in (0, 1], got {least}")
    low, high = 0, int(graph.mask.sum())
    best = graph.prune(high, rule=rule)
    while high - low > 1:
        middle = (low + high) // 2
        candidate = graph.prune(middle, rule=rule)
        metrics, clean, corrupt = circuit_metrics(
            model, [candidate], facts, metric=metric, ablation=ablation, batch_size=batch_size
        )
        kept = ratio(metrics[0], clean, corrupt)
        if np.isnan(kept):
            raise BadPrompt(
                f"the metric is {np.mean(clean):.3g} on average in the clean and the empty circuit's run alike, "
                "no difference to keep a share of: ask facts that the model knows, or another metric"
            )
        if kept >= least:
            high, best = middle, candidate
        else:
            low = middle
    return best


@takes_model
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

    from checkpoints.model.anatomy import anatomy
    from circuits.attribution.ablation import check_share, everywhere, fixed_values, replacement
    from circuits.attribution.edges import graph_shape
    from circuits.attribution.gqa import expanded, view_for
    from circuits.facts.batch import batches
    from circuits.facts.metrics import find_metric
    from circuits.intervention.circuit_forward import Mixer
    from circuits.trace.trace import check_stream, frozen, run
    from circuits.trace.writers import Writers

    _name, measure = find_metric(metric, facts)
    parts = anatomy(model) if not circuits else view_for(anatomy(model), circuits[0].shape)
    shape = graph_shape(parts)
    for circuit in circuits:
        require_same_shape(circuit.shape, shape)
    device = next(model.parameters()).device
    metrics = np.zeros((len(circuits) + 2, len(facts)))
    with frozen(model), expanded(parts), torch.no_grad():
        fixed = fixed_values(parts, facts, ablation, batch_size)
        for number, batch in enumerate(batches(facts, batch_size, model)):
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
