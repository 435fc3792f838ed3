"""The exact run of a small circuit, against the same sum written out, and what it leaves uncomputed."""

import numpy as np
import pytest
import torch
from circuit_families import build, random_facts

from checkpoints.model.anatomy import anatomy
from circuits.attribution.edges import graph_shape
from circuits.facts.batch import batches, logit_difference
from circuits.graph.circuit import Circuit
from circuits.intervention.faithfulness_measure import circuit_metrics
from circuits.trace.trace import run


def circuit_of(shape, *edges) -> Circuit:
    mask = np.zeros(shape.mask.shape, dtype=bool)
    for edge in edges:
        writer, reader = edge.split("->")
        mask[shape.writers.index(writer), shape.readers.index(reader)] = True
    assert not (mask & ~shape.mask).any()
    return Circuit(shape, mask)


@pytest.mark.parametrize("family", ["llama_gqa", "gpt2", "gemma2", "gpt_neox", "mixtral"])
def test_a_path_of_two_edges_is_the_sum_written_out(family):
    """input->m1->logits: one MLP on the corrupt stream with the clean embedding, its change on the corrupt output."""
    model, facts = build(family), random_facts(4)
    parts = anatomy(model)
    metrics, _, _ = circuit_metrics(model, [circuit_of(graph_shape(parts), "input->m1", "m1->logits")], facts)
    block = parts.blocks[1]
    with torch.no_grad():
        batch = next(batches(facts, 4, model))
        clean, corrupt = (run(parts, batch, ids) for ids in (batch.clean, batch.corrupt))
        stream = corrupt.layers[1].mlp_in + clean.stream - corrupt.stream
        written = block.mlp(stream if block.mlp_norm is None else block.mlp_norm.module(stream))
        written = written[0] if isinstance(written, tuple) else written
        if block.mlp_post_norm is not None:
            written = block.mlp_post_norm.module(written)
        final = parts.final_norm.module(corrupt.final + written - corrupt.layers[1].mlp_out)
        logits = parts.unembedding(final)[torch.arange(4), batch.last]
        if getattr(model.config, "final_logit_softcapping", None):
            cap = model.config.final_logit_softcapping
            logits = cap * torch.tanh(logits / cap)
        expected = logit_difference(logits, batch)[np.argsort(batch.indices)]
    np.testing.assert_allclose(metrics[0], expected.numpy(), atol=1e-12)


@pytest.mark.parametrize("family", ["llama_gqa", "gpt2"])
def test_parts_that_read_nothing_live_are_not_computed(family):
    model, facts = build(family), random_facts(4)
    parts = anatomy(model)
    shape = graph_shape(parts)
    tokens: list[list[int]] = []
    for block in parts.blocks:
        tokens.append([])
        block.mlp.register_forward_hook(lambda *call, seen=tokens[-1]: seen.append(call[-1].shape[1]))
    length = len(facts.clean[0])
    for edges, seen in (
        (("input->m1", "m1->logits"), [1, length]),
        (("input->m0", "m0->logits"), [length, 1]),
        (("input->logits",), [1, 1]),
    ):
        for counts in tokens:
            counts.clear()
        circuit_metrics(model, [circuit_of(shape, *edges)], facts)
        assert [counts[-1] for counts in tokens] == seen
