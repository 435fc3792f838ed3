"""How often the circuit diff is wrong: calls on one unchanged checkpoint, and misses of planted changes.

    python benchmarks/circuits_calibration.py series/first-light@9000 --against series/first-light@9600 --draws 200

The facts are those of the series' own world that the checkpoint recalls. False positives, three ways: two disjoint
random sets of facts, the same weights (unpaired); the scores of two checkpoints exchanged at random fact by fact
(paired), so that large differences remain but none has a direction; and the scores of the other checkpoint less every
edge's mean difference over all facts (paired), which leaves each edge its own, skewed, differences about 0: sign flips
are exact in the second by construction, in the third they are not. Misses: weights edited, the same facts before and
after. Paired diffs are called as a pair's verdict calls them, whose summed squared change is exchanged far more often
(`checkpoints.stats.energy`). Shares stand beside their exact binomial 95 % intervals.
"""

import argparse
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.random import Generator
from scipy.stats import binomtest
from transformers import PreTrainedModel

import circuits
from checkpoints import open_checkpoint
from checkpoints.model.anatomy import anatomy, linear_weight
from checkpoints.stats.energy import energy_p
from circuit_drift.lab.probes import fact_records
from circuit_drift.lab.world import make_world
from circuits.comparison.graph_diff import GraphDiff
from circuits.facts.facts import FactSet
from circuits.graph.scores import AttributionGraph

NULL_SIZES = (8, 16, 32, 53, 100)
SIZES = (16, 32, 48)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="SERIES@STEP or a checkpoint folder of a lab series")
    parser.add_argument("--against", help="a checkpoint whose differences the paired rows without a change take")
    parser.add_argument("--draws", type=int, default=40, help="diffs for each row")
    parser.add_argument("--null-draws", type=int, help="diffs for each row of the first table, if not the same")
    parser.add_argument("--variants", type=int, default=10, help="edited models for each kind of change")
    parser.add_argument("--world", type=int, default=0, help="seed of the series' world")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    options = parser.parse_args()
    loaded = open_checkpoint(options.checkpoint).load()
    facts = recalled(loaded.model, world_facts(loaded.tokenizer, options.world))
    graph = circuits.attribute(loaded.model, facts)
    print(f"{options.checkpoint}: {len(facts)} recalled facts, {int(graph.mask.sum())} edges\n")
    rng = np.random.default_rng(options.seed)
    models = {name: list(variants(loaded.model, graph, facts, plant, rng, options.variants))
              for name, plant in PLANTS.items()}  # fmt: skip
    print("| nothing changed | facts a side | draws | called different | an edge named | a node named |")
    print("|---|---|---|---|---|---|")
    other = models["a head silenced"][0][0]
    if options.against:
        other = circuits.attribute(open_checkpoint(options.against).load().model, facts)
    for name in NULLS:
        for size in NULL_SIZES:
            calls = [null(name, graph, other, rng, size) for _ in range(options.null_draws or options.draws)]
            print(f"| {name} | {size} | {len(calls)} | {columns(calls)} |", flush=True)
    print(
        "\n| planted change | facts | size, in standard errors | draws | called different | named | it or its nodes |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, edited in models.items():
        for size in SIZES:
            sizes = [effect(graph, after, planted) * size**0.5 for after, planted in edited]
            calls = [
                found(graph, after, planted, rng, size)
                for after, planted in edited
                for _ in range(options.draws // options.variants)
            ]
            spread = f"{np.median(sizes):.1f} ({min(sizes):.1f} to {max(sizes):.1f})"
            print(f"| {name} | {size} | {spread} | {len(calls)} | {columns(calls)} |", flush=True)


def columns(calls: Sequence[tuple[bool, ...]]) -> str:
    """Share of each kind of call, with its interval."""
    shown = []
    for calls_of_a_kind in zip(*calls, strict=True):
        hits = sum(calls_of_a_kind)
        limits = binomtest(hits, len(calls)).proportion_ci()
        shown.append(f"{hits / len(calls):.3f} [{limits.low:.3f}, {limits.high:.3f}]")
    return " | ".join(shown)


def world_facts(tokenizer, seed: int) -> FactSet:
    """Every known fact of the world, once."""
    records = fact_records(make_world(seed), seed + 1, per_class=400)
    known = [record for record in records if record["labels"]["class"] == "known"]
    return circuits.tokenize_facts(tokenizer, [circuits.Fact(**record) for record in known])


def recalled(model: PreTrainedModel, facts: FactSet) -> FactSet:
    """The facts whose answer is the top token."""
    rank = circuits.attribute(model, facts, method="eap").answer_rank
    return facts.subset(np.flatnonzero(rank == 0).tolist())


NULLS = ("other facts, unpaired", "exchanged at random, paired", "mean difference removed, paired")


def null(kind: str, graph: AttributionGraph, other: AttributionGraph, rng: Generator, size: int) -> tuple[bool, ...]:
    """Whether the diff of two graphs between which nothing changed sees a change, names an edge, names a node."""
    seed = int(rng.integers(1 << 30))
    order = rng.permutation(len(graph))
    if kind == NULLS[0]:
        first, second = (graph.only(facts) for facts in (order[:size], order[size : 2 * size]))
        told = circuits.diff(first, second, pairing="unpaired", splits=1, exchanges=0, seed=seed)
        return told.significant, told.n_significant > 0, bool(told.nodes_changed)
    chosen, scores = graph.only(order[:size]), other.scores
    if kind == NULLS[1]:
        pair = np.stack([graph.scores[order[:size]], scores[order[:size]]])
        side, fact = rng.integers(0, 2, size), np.arange(size)
        first, second = (replace(chosen, scores=pair[s, fact]) for s in (side, 1 - side))
    else:
        apart = (scores - graph.scores).mean(0, dtype=np.float64)
        first, second = chosen, replace(chosen, scores=scores[order[:size]] - apart)
    told = finer(circuits.diff(first, second, splits=1, exchanges=0, seed=seed), first, second)
    return told.significant, told.n_significant > 0, bool(told.nodes_changed)


def found(
    graph: AttributionGraph, after: AttributionGraph, planted: tuple[str, ...], rng: Generator, size: int
) -> tuple[bool, ...]:
    """Whether a diff over random facts sees a change, names what was planted, names that or a node of it.

    A head is named when it is among the changed nodes or writes or reads a changed edge, an edge when it is itself
    among the changed ones.
    """
    chosen = rng.permutation(len(graph))[:size]
    first, second = graph.only(chosen), after.only(chosen)
    told = finer(circuits.diff(first, second, splits=1, exchanges=0), first, second)
    seen = told.to_frame().query("changed")
    edges = set(seen["edge"])
    nodes = {n.split("<")[0] for n in (*seen["writer"], *seen["reader"])} | set(told.nodes_changed)
    ends = {end.split("<")[0] for name in planted for end in name.split("->")}
    named = all(name in edges if "->" in name else name in nodes for name in planted)
    return told.significant, named, named or bool(ends & nodes)


def finer(told: GraphDiff, a: AttributionGraph, b: AttributionGraph) -> GraphDiff:
    """The same diff with the smaller of its p and that of many more exchanges, as in a pair's verdict."""
    return replace(told, global_p=min(told.global_p, 2 * energy_p(b.edge_scores - a.edge_scores)))


def effect(graph: AttributionGraph, after: AttributionGraph, planted: tuple[str, ...]) -> float:
    """How far the planted edges or heads moved on all facts, in standard deviations over the facts; the smallest."""
    change = after.scores - graph.scores
    moved = []
    for name in planted:
        writer, _, reader = name.partition("->")
        row = change[:, graph.writers.index(writer)]
        units = row[:, graph.readers.index(reader)] if reader else row.sum(1)
        moved.append(abs(units.mean()) / units.std(ddof=1))
    return float(min(moved))


def working_heads(graph: AttributionGraph) -> list[str]:
    """The heads that write the graph's 20 strongest edges."""
    return sorted({edge.split("->")[0] for edge, _ in graph.top(20) if edge.startswith("a")})


Plant = Callable[[PreTrainedModel, AttributionGraph, Generator], tuple[str, ...]]


def silence_head(model: PreTrainedModel, graph: AttributionGraph, rng: Generator) -> tuple[str, ...]:
    """Zero what one head of the circuit writes."""
    layer, head = head_of(str(rng.choice(working_heads(graph))))
    parts = anatomy(model)
    span = slice(head * parts.head_dim, (head + 1) * parts.head_dim)
    linear_weight(parts.blocks[layer].o)[:, span] = 0
    return (f"a{layer}.h{head}",)


def swap_heads(model: PreTrainedModel, graph: AttributionGraph, rng: Generator) -> tuple[str, ...]:
    """Exchange a head of the circuit with another of its key/value group: the same function, other names.

    Only heads that do not do the same work count: one's strongest edge is at least twice the other's same edge.
    """
    parts = anatomy(model)
    size = parts.n_heads // parts.n_kv_heads
    pairs = []
    for name in working_heads(graph):
        layer, head = head_of(name)
        mates = [h for h in range(head // size * size, head // size * size + size) if h != head]
        row = graph.mean[graph.writers.index(name)]
        edge = int(np.abs(row).argmax())
        pairs += [
            (layer, head, mate)
            for mate in mates
            if abs(row[edge]) > 2 * abs(graph.mean[graph.writers.index(f"a{layer}.h{mate}"), edge])
        ]
    layer, head, other = pairs[int(rng.integers(len(pairs)))]
    block = parts.blocks[layer]
    queries, outputs = linear_weight(block.q.module), linear_weight(block.o)
    first, second = block.q.rows[head], block.q.rows[other]
    queries[torch.cat([first, second])] = queries[torch.cat([second, first])]
    columns = torch.arange(parts.n_heads * parts.head_dim).reshape(parts.n_heads, -1)
    first, second = columns[head], columns[other]
    outputs[:, torch.cat([first, second])] = outputs[:, torch.cat([second, first])]
    return (f"a{layer}.h{head}", f"a{layer}.h{other}")


def halve_edge(model: PreTrainedModel, graph: AttributionGraph, rng: Generator) -> tuple[str, ...]:
    """Halve what a later part reads of one head: its input weights, over the space that the head writes to.

    One of the 20 strongest edges from a head to a query, a key, a value or an MLP.
    """
    edges = [edge for edge, _ in graph.top(len(graph.edge_names)) if edge.startswith("a") and "logits" not in edge]
    edge = str(rng.choice(edges[:20]))
    writer, reader = edge.split("->")
    layer, head = head_of(writer)
    parts = anatomy(model)
    block = parts.blocks[int(reader[1:].split(".")[0])]
    norm = block.mlp_norm if reader.startswith("m") else block.attention_norm
    written = parts.blocks[layer].output_weight[head] * norm.gain
    basis, _ = torch.linalg.qr(written.T)
    for weight in reading_weights(block, reader):
        weight.sub_(0.5 * (weight @ basis) @ basis.T)
    return (edge,)


def reading_weights(block, reader: str) -> list[torch.Tensor]:
    """The weights [out, d_model] by which a reader reads the stream, as views."""
    if reader.startswith("m"):
        return [linear_weight(block.mlp.gate_proj), linear_weight(block.mlp.up_proj)]
    projection = {"q": block.q, "k": block.k, "v": block.v}[reader[-2]]
    rows = projection.rows[int(reader.split(".")[1].split("<")[0].strip("hkv"))]
    return [linear_weight(projection.module)[int(rows[0]) : int(rows[-1]) + 1]]


PLANTS: dict[str, Plant] = {
    "a head silenced": silence_head,
    "two heads swapped": swap_heads,
    "an edge halved": halve_edge,
}


def variants(
    model: PreTrainedModel, graph: AttributionGraph, facts: FactSet, plant: Plant, rng: Generator, count: int
) -> Iterator[tuple[AttributionGraph, tuple[str, ...]]]:
    """Graphs of edited copies of a model, with the names of what was edited."""
    for _ in range(count):
        edited = copy.deepcopy(model)
        with torch.no_grad():
            planted = plant(edited, graph, rng)
        yield circuits.attribute(edited, facts), planted


def head_of(name: str) -> tuple[int, int]:
    """(layer, head) of ``a3.h5``."""
    layer, head = name[1:].split(".h")
    return int(layer), int(head)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
