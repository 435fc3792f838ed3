"""Information flow routes: the published outputs, the formula written out, and that no sign is pretended."""

import numpy as np
import pytest
import torch
from circuit_families import FAMILIES, build, random_facts, residual_parts
from published import published_facts, published_model, published_scores

import circuits
from checkpoints.errors import BadPrompt
from checkpoints.model.anatomy import anatomy


@pytest.mark.parametrize("kind", ["plain", "padded"])
def test_published_scores(kind):
    graph = circuits.attribute(published_model(), published_facts(kind), method="flow", batch_size=4)
    np.testing.assert_allclose(graph.mean, published_scores()[f"{kind}/edge/information-flow-routes"], atol=1e-9)
    np.testing.assert_allclose(graph.mean.sum(0), 1, atol=1e-12)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"gpt2"}))
def test_shares_of_what_the_stock_model_writes(family):
    """The last MLP's and the logits' columns from the streams that brute force finds in the stock model."""
    model, facts = build(family), random_facts(2, length=6)
    graph = circuits.attribute(model, facts, method="flow")
    for i, ids in enumerate(facts.clean):
        written = torch.stack(residual_parts(model, list(ids)))
        streams: dict[str, torch.Tensor] = {}
        parts = anatomy(model)
        handle = parts.final_norm.module.register_forward_pre_hook(lambda _m, args, s=streams: s.update(x=args[0][0]))
        with torch.no_grad():
            model(input_ids=torch.tensor([list(ids)]))
        handle.remove()
        stream = streams["x"]
        near = (stream.abs().sum(-1) - (written - stream).abs().sum(-1)).clamp(min=0)
        expected = (near / near.sum(0)).mean(1)
        np.testing.assert_allclose(graph.scores[i, :, -1], expected, atol=1e-6)


def test_batches_padding_and_chunks_change_nothing():
    model, facts = build("llama_gqa"), random_facts(5, ragged=True)
    whole = circuits.attribute(model, facts, method="flow", batch_size=5)
    single = circuits.attribute(model, facts, method="flow", batch_size=1, chunk_mb=1e-6)
    np.testing.assert_allclose(single.scores, whole.scores, atol=1e-9)


def test_no_metric_and_no_sign_are_pretended():
    graph = circuits.attribute(build("llama_gqa"), random_facts(3), method="flow")
    assert np.isnan(graph.clean_metric).all()
    assert np.isnan(graph.total)
    assert (graph.meta["metric"], graph.meta["ablation"], graph.meta["rule"]) == ("none", "none", "none")
    assert graph.scores.min() >= 0
    assert graph.scores.max() <= 1
    with pytest.raises(BadPrompt, match="no sign"):
        graph.prune(10, rule="lowers")
    assert graph.prune(10).n_edges <= 10
