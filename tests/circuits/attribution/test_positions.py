"""Scores by position: they add up, are zero where nothing differs, and each is that of its own position."""

import numpy as np
import pytest
import torch
from brute_force import STEP, displaced, metric
from circuit_families import build, random_facts, residual_parts

import circuits
from checkpoints.errors import BadPrompt
from checkpoints.model.anatomy import anatomy
from circuits.attribution.nodes import attribute_nodes
from circuits.attribution.positions import PositionScores, attribute_positions
from circuits.facts.facts import FactSet
from circuits.graph.nodes import NodeScores


@pytest.fixture(scope="module")
def model():
    return build("llama_gqa")


def named(facts: FactSet) -> FactSet:
    """The same with a named segment of two tokens, and one that includes the last."""
    spans = tuple({"subject": (1, 3), "relation": (5, len(prompt))} for prompt in facts.clean)
    return FactSet(facts.clean, facts.corrupt, facts.answer, facts.wrong, facts.facts, segments=spans)


@pytest.mark.parametrize("method", ["eap", "eap-ig", "conductance"])
@pytest.mark.parametrize("family", ["llama_gqa", "gpt_neox", "olmo2"])
def test_segments_add_up_to_the_scores_without_positions(family, method):
    model, facts = build(family), named(random_facts(5, length=9, ragged=True))
    graph = circuits.attribute(model, facts, method=method, ig_steps=2, groups=2)
    split = attribute_positions(model, facts, method=method, ig_steps=2, groups=2, batch_size=2, chunk_mb=1e-6)
    assert split.segments == ("subject", "relation", "changed", "last", "rest")
    np.testing.assert_allclose(split.whole.scores, graph.scores, atol=1e-6 * np.abs(graph.scores).max())
    np.testing.assert_allclose(split.whole.clean_metric, graph.clean_metric, rtol=1e-6)
    assert all(np.abs(split[name].scores).max() > 0 for name in split.segments)


@pytest.mark.parametrize("how", [{"backward": "gim"}, {"backward": "relp"}, {"ablation": "mean"}])
def test_backward_rules_and_ablations_are_those_of_the_scores_without_positions(model, how):
    facts = named(random_facts(4, length=9, ragged=True))
    graph = circuits.attribute(model, facts, method="eap", groups=1, **how)
    whole = attribute_positions(model, facts, method="eap", groups=1, **how).whole
    np.testing.assert_allclose(whole.scores, graph.scores, atol=1e-6 * np.abs(graph.scores).max())
    assert whole.meta == graph.meta
    assert NodeScores.of(whole).meta["rule"] == attribute_nodes(model, facts, method="eap").meta["rule"]


def test_tokens_add_up_and_nothing_happens_before_the_first_change(model):
    facts = random_facts(3)
    graph = circuits.attribute(model, facts, method="eap")
    split = attribute_positions(model, facts, method="eap", by="token", groups=None)
    assert split.segments == tuple("0123456")
    np.testing.assert_allclose(split.whole.scores, graph.scores, atol=1e-6 * np.abs(graph.scores).max())
    assert (split["0"].scores == 0).all()
    assert (split["2"].scores[:, 0] == 0).all()  # the input differs at 1 and 3 alone
    last = split["6"].mean[:, -1]  # only the last position reaches the logits
    np.testing.assert_allclose(last, graph.mean[:, -1], atol=1e-9)
    assert set(split.to_frame()["segment"]) == set(split.segments)
    with pytest.raises(BadPrompt, match="no segment 'subject'"):
        split["subject"]


def test_a_positions_score_equals_finite_differences(model):
    facts, parts = random_facts(2, length=6), anatomy(model)
    split = attribute_positions(model, facts, method="eap", by="token", groups=None)
    reader, writer = (1, "k", 1), "m0"
    graph = split.whole
    row, column = graph.writers.index(writer), graph.readers.index("a1.kv1<k>")
    largest = np.abs(graph.scores).max()
    for i in range(len(facts)):
        clean, corrupt = list(facts.clean[i]), list(facts.corrupt[i])
        change = residual_parts(model, corrupt)[row] - residual_parts(model, clean)[row]
        for place in (1, 3, 4):
            here = torch.zeros_like(change)
            here[place] = change[place]
            ends = []
            for sign in (1, -1):
                with displaced(parts, reader, sign * STEP * here):
                    ends.append(metric(model, clean, int(facts.answer_id[i]), int(facts.wrong_id[i])))
            expected = (ends[0] - ends[1]) / (2 * STEP)
            np.testing.assert_allclose(split[str(place)].scores[i, row, column], expected, atol=3e-3 * largest)


def test_the_answers_own_tokens_are_a_segment(model):
    plain = random_facts(3)
    facts = FactSet.from_ids(plain.clean, plain.corrupt, [(5, 6, 7), 8, (9, 10)], [15, 16, 17])
    split = attribute_positions(model, facts, method="eap", metric="log probability", kv="query heads", groups=1)
    graph = circuits.attribute(model, facts, method="eap", metric="log probability", kv="query heads", groups=1)
    assert split.segments == ("changed", "last", "answer", "rest")
    np.testing.assert_allclose(split.whole.scores, graph.scores, atol=1e-6 * np.abs(graph.scores).max())
    assert np.abs(split["answer"].mean).max() > 0
    assert (split["answer"].mean[0] == 0).all()  # the answer is the same after both prompts


def test_what_has_no_position_is_refused(model):
    facts = random_facts(3, ragged=True)
    with pytest.raises(BadPrompt, match="from 5 to 7 tokens"):
        attribute_positions(model, facts, by="token")
    with pytest.raises(BadPrompt, match="unknown by"):
        attribute_positions(model, facts, by="word")
    with pytest.raises(BadPrompt, match="averages over positions"):
        attribute_positions(model, facts, method="flow")
    for spans, reason in (({"a": (0, 3), "b": (2, 4)}, "overlap"), ({"last": (0, 1)}, "must not be named last")):
        wrong = FactSet(facts.clean, facts.corrupt, facts.answer, facts.wrong, facts.facts, segments=(spans,) * 3)
        with pytest.raises(BadPrompt, match=reason):
            attribute_positions(model, wrong)


def test_segments_come_with_errors_and_go_to_disk_and_back(model, tmp_path):
    facts = named(random_facts(5, length=9, ragged=True))
    split = attribute_positions(model, facts, method="eap")
    assert split.to_frame()["stderr"].notna().all()
    np.testing.assert_array_equal(split["rest"].group, np.arange(5))
    assert len(attribute_positions(model, random_facts(9), method="eap")["last"].scores) == 8
    back = PositionScores.load(split.save(tmp_path / "positions"))
    assert back.to_frame().equals(split.to_frame())
    np.testing.assert_allclose(back.nodes().sum(axis=1), list(split.whole.nodes().values()), atol=1e-6)
    node, segment = back.nodes().abs().stack().idxmax()
    assert f"{node} at {segment!r} carries most" in back.plot(4).layout.title.text
    assert len(back.plot(4).data[0].y) == 4
