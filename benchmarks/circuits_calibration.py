"""How often the circuit diff is wrong: calls on one unchanged checkpoint, and misses of planted changes.

    python benchmarks/circuits_calibration.py series/first-light@20000 --draws 200

The facts are those of the series' own world that the checkpoint recalls. False positives: two disjoint random sets of
facts, the same weights. Misses: weights edited, the same facts before and after.
"""

import argparse
import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.random import Generator
from transformers import PreTrainedModel

import circuits
from checkpoints import open_checkpoint
from checkpoints.anatomy import anatomy, linear_weight
from circuit_drift.lab.probes import fact_records
from circuit_drift.lab.world import make_world
from circuits.scores import AttributionGraph


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="SERIES@STEP or a checkpoint folder of a lab series")
    parser.add_argument("--draws", type=int, default=200, help="diffs of edited models; 5 x as many of unchanged ones")
    parser.add_argument("--facts", type=int, default=48, help="facts on each side of a diff")
    parser.add_argument("--variants", type=int, default=10, help="edited models for each kind of change")
    parser.add_argument("--world", type=int, default=0, help="seed of the series' world")
    options = parser.parse_args()
    loaded = open_checkpoint(options.checkpoint).load()
    facts = recalled(loaded.model, world_facts(loaded.tokenizer, options.world))
    graph = circuits.attribute(loaded.model, facts)
    print(f"{options.checkpoint}: {len(facts)} recalled facts, {int(graph.mask.sum())} edges\n")
    rng = np.random.default_rng(0)
    print("| level | facts a side | draws | called different | edges named |\n|---|---|---|---|---|")
    for size in (16, 32, min(options.facts, len(facts) // 2)):
        p, named = false_positives(graph, rng, draws=5 * options.draws, size=size)
        print(f"| .05 | {size} | {5 * options.draws} | {np.mean(p <= 0.05):.3f} | {np.mean(named > 0):.3f} |")
    print("\n| planted change | draws | called different | the planted part named |\n|---|---|---|---|")
    for name, plant in PLANTS.items():
        called, named = misses(loaded.model, graph, facts, plant, rng, options)
        print(f"| {name} | {len(called)} | {np.mean(called):.3f} | {np.mean(named):.3f} |")


def world_facts(tokenizer, seed: int) -> circuits.FactSet:
    """Every known fact of the world, once."""
    records = fact_records(make_world(seed), seed + 1, per_class=400)
    known = [record for record in records if record["labels"]["class"] == "known"]
    return circuits.tokenize_facts(tokenizer, [circuits.Fact(**record) for record in known])


def recalled(model: PreTrainedModel, facts: circuits.FactSet) -> circuits.FactSet:
    """The facts whose answer is the top token."""
    rank = circuits.attribute(model, facts, method="eap").answer_rank
    return facts.subset(np.flatnonzero(rank == 0).tolist())


def part(graph: AttributionGraph, chosen: np.ndarray, name: str) -> AttributionGraph:
    """The graph over some of its facts."""
    return AttributionGraph(
        scores=graph.scores[chosen],
        shape=graph.shape,
        clean_metric=graph.clean_metric[chosen],
        corrupt_metric=graph.corrupt_metric[chosen],
        answer_rank=graph.answer_rank[chosen],
        group=np.arange(len(chosen)),
        labels=tuple(graph.labels[i] for i in chosen),
        meta={**graph.meta, "prompts": name},
    )


def false_positives(graph: AttributionGraph, rng: Generator, *, draws: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Global p, and number of edges named, of diffs between disjoint facts at one checkpoint."""
    found = []
    for _ in range(draws):
        order = rng.permutation(len(graph))
        a, b = part(graph, order[:size], "a"), part(graph, order[size : 2 * size], "b")
        told = circuits.diff(a, b, pairing="unpaired", splits=1, seed=int(rng.integers(1 << 30)))
        found.append((told.global_p, told.n_significant))
    ps, named = zip(*found, strict=True)
    return np.array(ps), np.array(named)


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
    """Halve what an MLP of the circuit reads of one head: its input weights, over the space the head writes to."""
    circuit = graph.prune(53)
    edges = [e for e in circuit.edges if e.startswith("a") and "->m" in e]
    strongest = sorted(edges, key=lambda e: -abs(graph[e]))[:10]
    edge = str(rng.choice(strongest))
    writer, reader = edge.split("->")
    layer, head = head_of(writer)
    parts = anatomy(model)
    block = parts.blocks[int(reader[1:])]
    written = parts.blocks[layer].output_weight[head] * block.mlp_norm.gain
    basis, _ = torch.linalg.qr(written.T)
    for module in (block.mlp.gate_proj, block.mlp.up_proj):
        module.weight -= 0.5 * (module.weight @ basis) @ basis.T
    return (edge,)


PLANTS: dict[str, Plant] = {
    "a head silenced": silence_head,
    "two heads swapped": swap_heads,
    "an edge halved": halve_edge,
}


def misses(model, graph, facts, plant: Plant, rng: Generator, options) -> tuple[list[bool], list[bool]]:
    """For edited models and random facts: whether the diff saw a change, and whether it named what was changed."""
    called, named = [], []
    for edited, planted in variants(model, graph, plant, rng, options.variants):
        after = circuits.attribute(edited, facts)
        for _ in range(options.draws // options.variants):
            chosen = rng.permutation(len(facts))[: options.facts]
            told = circuits.diff(part(graph, chosen, "same"), part(after, chosen, "same"), splits=1)
            frame = told.to_frame()
            seen = frame[frame["changed"]]
            nodes = {n.split("<")[0] for n in (*seen["edge"], *seen["writer"], *seen["reader"])} | set(
                told.nodes_changed
            )
            called.append(told.significant)
            named.append(all(name in nodes for name in planted))
    return called, named


def variants(
    model, graph, plant: Plant, rng: Generator, count: int
) -> Iterator[tuple[PreTrainedModel, tuple[str, ...]]]:
    """Edited copies of a model, with the names of what was edited."""
    for _ in range(count):
        edited = copy.deepcopy(model)
        with torch.no_grad():
            planted = plant(edited, graph, rng)
        yield edited, planted


def head_of(name: str) -> tuple[int, int]:
    """(layer, head) of ``a3.h5``."""
    layer, head = name[1:].split(".h")
    return int(layer), int(head)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
