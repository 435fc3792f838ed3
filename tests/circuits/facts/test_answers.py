"""Answers of several tokens: what is summed, against the stock model read token by token."""

import json
import pickle

import numpy as np
import pytest
import torch
from brute_force import STEP, displaced
from circuit_families import build, random_facts, residual_parts
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import circuits
from checkpoints.errors import BadPrompt
from checkpoints.model.anatomy import anatomy
from circuits.facts.facts import FactSet, load_facts
from circuits.graph.circuit import Circuit
from circuits.intervention.exact import exact_edges
from circuits.intervention.faithfulness_measure import circuit_metrics

ANSWERS = [(5, 9, 11), (6,), (7, 8)]
WRONGS = [(15, 9, 12), (16,), (17, 18)]


@pytest.fixture(scope="module")
def model():
    return build("llama_gqa")


@pytest.fixture(scope="module")
def facts():
    """Prompts and answers of different lengths."""
    short = random_facts(3, ragged=True)
    return FactSet.from_ids(short.clean, short.corrupt, ANSWERS, WRONGS)


def answer_logits(model, prompt, answer):
    """[answer, vocab] one plain forward for each token of the answer."""
    rows = []
    for k in range(len(answer)):
        with torch.no_grad():
            rows.append(model(input_ids=torch.tensor([[*prompt, *answer[:k]]])).logits[0, -1])
    return torch.stack(rows)


def whole_log_probability(model, prompt, answer):
    tokens = torch.arange(len(answer)), torch.tensor(answer)
    return float(answer_logits(model, prompt, answer).log_softmax(-1)[tokens].sum())


def test_log_probability_is_that_of_the_whole_answer(model, facts):
    graph = circuits.attribute(model, facts, method="eap", metric="log probability")
    for i, answer in enumerate(facts.answer):
        for found, prompts in ((graph.clean_metric, facts.clean), (graph.corrupt_metric, facts.corrupt)):
            assert found[i] == pytest.approx(whole_log_probability(model, prompts[i], answer), rel=1e-5)


def test_logit_difference_sums_over_the_answers_tokens(model, facts):
    graph = circuits.attribute(model, facts, method="eap")
    for i, (answer, wrong) in enumerate(zip(facts.answer, facts.wrong, strict=True)):
        logits = answer_logits(model, facts.clean[i], answer)
        expected = sum(float(row[a] - row[w]) for row, a, w in zip(logits, answer, wrong, strict=True))
        assert graph.clean_metric[i] == pytest.approx(expected, rel=1e-5)


def test_rank_is_that_of_the_token_that_fares_worst(model, facts):
    graph = circuits.attribute(model, facts, method="eap")
    for i, answer in enumerate(facts.answer):
        logits = answer_logits(model, facts.clean[i], answer)
        assert graph.answer_rank[i] == max(int((row > row[a]).sum()) for row, a in zip(logits, answer, strict=True))


@pytest.mark.parametrize("metric", ["log probability", "logit difference", "kl"])
def test_batching_padding_and_order_change_nothing(model, facts, metric):
    method = "eap-ig" if metric == "kl" else "eap"
    whole = circuits.attribute(model, facts, method=method, metric=metric, batch_size=3)
    single = circuits.attribute(model, facts, method=method, metric=metric, batch_size=1)
    turned = circuits.attribute(model, facts.subset([2, 0, 1]), method=method, metric=metric, batch_size=2)
    scale = np.abs(whole.scores).max()
    np.testing.assert_allclose(single.scores, whole.scores, atol=1e-6 * scale)
    np.testing.assert_allclose(turned.scores, whole.scores[[2, 0, 1]], atol=1e-6 * scale)


@pytest.mark.parametrize("family", ["gpt2", "llama_gqa"])
def test_edges_of_a_whole_answer_equal_finite_differences(family, facts):
    model = build(family)
    parts = anatomy(model)
    graph = circuits.attribute(model, facts, method="eap", metric="log probability")
    readers = {"a1.h2<q>": (1, "q", 2), "m1": (1, "mlp", 0), "logits": (-1, "logits", 0)}
    largest = np.abs(graph.scores).max()
    for name, reader in readers.items():
        for writer in ("input", "a0.h1", "m0"):
            row, column = graph.writers.index(writer), graph.readers.index(name)
            for i, answer in enumerate(facts.answer):
                ends = [[*prompts[i], *answer[:-1]] for prompts in (facts.clean, facts.corrupt)]
                change = residual_parts(model, ends[1])[row] - residual_parts(model, ends[0])[row]
                values = []
                for sign in (1, -1):
                    with displaced(parts, reader, sign * STEP * change), torch.no_grad():
                        logits = model(input_ids=torch.tensor([ends[0]])).logits[0].log_softmax(-1)
                    start = len(facts.clean[i]) - 1
                    values.append(float(sum(logits[start + k, token] for k, token in enumerate(answer))))
                expected = (values[0] - values[1]) / (2 * STEP)
                np.testing.assert_allclose(graph.scores[i, row, column], expected, atol=3e-3 * largest, rtol=3e-3)


@pytest.mark.parametrize("metric", ["log probability", "kl"])
def test_full_and_empty_circuit_are_the_two_runs(model, facts, metric):
    graph = circuits.attribute(model, facts, metric=metric, ig_steps=1)
    whole = Circuit(graph.shape, graph.mask)
    nothing = Circuit(graph.shape, np.zeros_like(graph.mask))
    metrics, clean, corrupt = circuit_metrics(model, [whole, nothing], facts, metric=metric)
    np.testing.assert_array_equal(metrics, [clean, corrupt])
    np.testing.assert_array_equal(clean, graph.clean_metric)
    assert circuits.faithfulness(model, whole, facts, metric=metric, n_random=0).value == 1.0


def test_exact_patching_measures_the_whole_answer(model, facts):
    edge, parts = "m1->logits", anatomy(model)
    exact = exact_edges(model, facts, edges=[edge], metric="log probability")
    for i, answer in enumerate(facts.answer):
        clean, corrupt = ([*prompts[i], *answer[:-1]] for prompts in (facts.clean, facts.corrupt))
        row = exact.writers.index("m1")
        change = residual_parts(model, corrupt)[row] - residual_parts(model, clean)[row]
        with displaced(parts, (-1, "logits", 0), change), torch.no_grad():
            logits = model(input_ids=torch.tensor([clean])).logits[0].log_softmax(-1)
        start = len(facts.clean[i]) - 1
        patched = float(sum(logits[start + k, token] for k, token in enumerate(answer)))
        expected = patched - whole_log_probability(model, facts.clean[i], answer)
        assert exact.scores[i, row, -1] == pytest.approx(expected, rel=1e-4)


def test_an_answer_of_one_token_is_the_same_written_either_way(model):
    plain = random_facts(2)
    listed = FactSet.from_ids(plain.clean, plain.corrupt, plain.answer, plain.wrong)
    assert listed.hash == plain.hash
    np.testing.assert_array_equal(
        circuits.attribute(model, listed, method="eap").scores, circuits.attribute(model, plain, method="eap").scores
    )


def test_what_no_metric_can_be_taken_of_is_refused(model):
    plain = random_facts(2)
    uneven = FactSet.from_ids(plain.clean, plain.corrupt, [5, (6, 7)], [15, 16])
    with pytest.raises(BadPrompt, match="fact 1: the answer has 2 tokens and the wrong answer 1"):
        circuits.attribute(model, uneven)
    graph = circuits.attribute(model, uneven, method="eap", metric="log probability")
    with pytest.raises(BadPrompt, match=r"logit difference needs equal numbers.*--metric 'log probability'"):
        circuits.faithfulness(model, graph.prune(20), uneven)
    with pytest.raises(BadPrompt, match="one value for each answer token"):
        circuits.attribute(model, plain, metric=lambda logits, batch, clean: logits.sum())
    with pytest.raises(BadPrompt, match="the same tokens, 5 6"):
        FactSet.from_ids(plain.clean, plain.corrupt, [(5, 6), 7], [(5, 6), 8])


@pytest.fixture(scope="module")
def tokenizer():
    words = ["[UNK]", "Paris", "Rome", "is", "the", "capital", "of", "New", "Zealand", "Old", "England", "Wellington"]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]")


def test_whole_answers_and_segments_are_tokenized_on_request(tokenizer, tmp_path):
    record = {
        "clean": "Wellington is the capital of",
        "corrupt": "Paris is the capital of",
        "answer": "New Zealand",
        "wrong": "Old England",
        "segments": {"subject": "Wellington", "relation": "capital of"},
        "class": "capital",
    }
    path = tmp_path / "facts.jsonl"
    path.write_text(json.dumps(record))
    facts = load_facts(path)
    whole = circuits.tokenize_facts(tokenizer, facts, answers="whole")
    assert whole.answer == ((7, 8),)
    assert whole.segments == ({"subject": (0, 1), "relation": (3, 5)},)
    assert circuits.tokenize_facts(tokenizer, facts, answers="first token").answer == ((7,),)
    with pytest.raises(BadPrompt, match="'New Zealand' is 2 tokens"):
        circuits.tokenize_facts(tokenizer, facts)
    with pytest.raises(BadPrompt, match="unknown answers"):
        circuits.tokenize_facts(tokenizer, facts, answers="last token")
    path.write_text(json.dumps({**record, "segments": {"subject": "Auckland"}}))
    with pytest.raises(BadPrompt, match="'Auckland', is not in the clean prompt"):
        circuits.tokenize_facts(tokenizer, load_facts(path), answers="whole")


def test_lines_that_are_no_facts_are_refused_one_by_one_and_the_rest_go_on(tokenizer, tmp_path, caplog):
    good = {"clean": "Paris is", "corrupt": "Rome is", "answer": "capital", "wrong": "Old"}
    lines = [
        json.dumps(good),
        "{not json",
        "",
        json.dumps({**good, "corrupt": "New Zealand is"}),
        json.dumps({"clean": "Paris is"}),
        json.dumps({**good, "labels": 3}),
        json.dumps({**good, "wrong": "England", "note": "a\u2028line"}, ensure_ascii=False),
    ]
    path = tmp_path / "facts.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    loaded = load_facts(path)
    assert len(loaded) == 3 and loaded[-1].labels == {"note": "a\u2028line"}
    assert [index for index, _ in loaded.refused] == [1, 3, 4]
    assert [reason.split(":")[0].split(" must")[0] for _, reason in loaded.refused] == [
        "line 2 is not JSON", "line 5", "line 6"
    ]  # fmt: skip
    assert "3 of 6 lines refused, the first: line 2 is not JSON" in caplog.text
    facts = circuits.tokenize_facts(tokenizer, loaded)
    assert len(facts) == 2
    assert [index for index, _ in facts.refused] == [1, 2, 3, 4]
    assert "2 tokens and the corrupt one 3" in facts.refused[1][1]
    assert repr(facts) == f"2 facts of 2 to 2 tokens; 4 refused, the first: {facts.refused[0][1]}"
    assert pickle.loads(pickle.dumps(loaded)).refused == loaded.refused


def test_a_file_without_a_fact_is_refused_with_the_first_reasons(tmp_path):
    path = tmp_path / "facts.jsonl"
    path.write_text("[]\n{")
    with pytest.raises(BadPrompt, match=r"holds no facts; .* line 1 must be an object .*; line 2 is not JSON"):
        load_facts(path)
    path.write_bytes(b"\xff")
    with pytest.raises(BadPrompt, match="not UTF-8"):
        load_facts(path)
    with pytest.raises(BadPrompt, match="No such file"):
        load_facts(tmp_path / "nothing.jsonl")
