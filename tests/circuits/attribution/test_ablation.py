"""What a writer is replaced by: the published outputs, and means taken by hand."""

import numpy as np
import pytest
import torch
from circuit_families import build, random_facts, residual_parts
from published import published_facts, published_model, published_scores

import circuits
from checkpoints.errors import BadPrompt, UnsupportedArchitecture
from checkpoints.model.anatomy import anatomy
from circuits.attribution.ablation import fixed_values
from circuits.facts.facts import FactSet


@pytest.mark.parametrize(("kind", "ablation"), [("plain", "zero"), ("padded", "zero"), ("plain", "mean-positional")])
def test_published_scores(kind, ablation):
    facts = published_facts(kind)
    graph = circuits.attribute(published_model(), facts, method="eap", ablation=ablation, batch_size=4)
    np.testing.assert_allclose(graph.mean, published_scores()[f"{kind}/edge/EAP-{ablation}/logit_diff"], atol=1e-9)
    assert graph.meta["ablation"] == ablation


@pytest.mark.parametrize("family", ["llama_gqa", "gemma2", "granite"])
def test_means_are_those_of_what_the_stock_model_writes(family):
    model, facts = build(family), random_facts(4, ragged=True)
    values = fixed_values(anatomy(model), facts, "mean", 3)
    written = [torch.stack(residual_parts(model, list(ids))) for ids in facts.clean]
    expected = torch.cat(written, 1).mean(1)
    torch.testing.assert_close(values.stream[0, 0], expected[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(values.mlps[1][0, 0], expected[-1], rtol=1e-6, atol=1e-6)


def test_scores_are_linear_in_the_value_put_in_place():
    """corrupt - zero is the score of the corrupt output itself, so both ablations differ by it alone."""
    model, facts = build("llama_gqa"), random_facts(3)
    scores = {
        how: circuits.attribute(model, facts, method="eap", ablation=how).mean
        for how in ("corrupt", "zero", "mean", "mean-positional")
    }
    swapped = FactSet.from_ids(facts.corrupt, facts.clean, facts.answer_id, facts.wrong_id)
    back = circuits.attribute(model, swapped, method="eap", ablation="corrupt").mean
    assert all(np.abs(scores["zero"] - other).max() > 1e-3 for name, other in scores.items() if name != "zero")
    assert np.abs(back - scores["corrupt"]).max() > 1e-3
    one = random_facts(1)
    means = circuits.attribute(model, one, method="eap", ablation="mean-positional")
    np.testing.assert_allclose(means.scores, 0, atol=1e-9)  # the mean of one fact is that fact


def test_batches_change_nothing():
    model, facts = build("gpt2"), random_facts(5, ragged=True)
    for ablation in ("zero", "mean"):
        whole = circuits.attribute(model, facts, method="eap", ablation=ablation, batch_size=5)
        single = circuits.attribute(model, facts, method="eap", ablation=ablation, batch_size=1, chunk_mb=1e-6)
        np.testing.assert_allclose(single.scores, whole.scores, atol=1e-6 * np.abs(whole.scores).max())


def test_means_by_position_need_one_length():
    with pytest.raises(BadPrompt, match="these have 5 to 7 tokens"):
        circuits.attribute(build("gpt2"), random_facts(4, ragged=True), method="eap", ablation="mean-positional")


def test_an_input_that_is_more_than_tokens_is_refused():
    model = build("llama_gqa")
    model.model.layers[0].register_forward_pre_hook(
        lambda _m, args, kwargs: ((args[0] + torch.arange(16.0), *args[1:]), kwargs), with_kwargs=True
    )
    with pytest.raises(UnsupportedArchitecture, match="cannot be ablated alone"):
        circuits.attribute(model, random_facts(2), method="eap", ablation="zero")
