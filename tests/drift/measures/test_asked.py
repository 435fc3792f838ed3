"""What was refused, how answers were scored and where needles stand is said in words, JSON and the report."""

import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import circuit_drift
from circuit_drift.measures.needles import needle_prompts_of
from circuit_drift.prompts import prompts_for
from circuit_drift.report.asked import asked_sentences, refused_frame, scoring_statements
from circuit_drift.report.verdict import run_verdict
from heads.prompts.building import least_length
from tests.drift.handmade import graph, point, retrieval, run_of, strengths

REFUSED = [
    [0, "the answer ' New York' is 2 tokens (New York), not one"],
    [1, "the answer ' Rio de Janeiro' is 3 tokens (Rio de Janeiro), not one"],
    [4, "the clean prompt has 5 tokens and the corrupt one 6; they must be equal"],
]
DEPTHS = [[0.1, 0.05, 0.08, 0.1], [0.5, 0.48, 0.5, 0.53]]


def asked(**meta):
    scores = retrieval(refused=[(2, "the answer also stands in the haystack: it could be copied from there")])
    scores.meta["depths"] = DEPTHS
    return point(1, circuit=graph(strengths(["input->m0"]), **meta), heads=scores)


def test_reasons_of_one_kind_are_counted_together_with_the_way_out():
    sentences = list(asked_sentences([asked(refused=REFUSED)]))
    assert sentences == [
        "3 facts were refused and not asked: fact 0: the answer ' New York' is 2 tokens (New York), not one (and 1 "
        "more like it); fact 4: the clean prompt has 5 tokens and the corrupt one 6; they must be equal. --answers "
        "whole scores answers of several tokens.",
        "1 needle was refused and not asked: needle 2: the answer also stands in the haystack: it could be copied from "
        "there.",
        "Needles were asked for at depth 0.1, 0.5 and stand at 0.08, 0.50 on average, 0.05 away at most.",
    ]
    assert set(sentences) <= set(run_verdict(run_of(asked(refused=REFUSED), asked(refused=REFUSED))))


def test_answers_that_no_head_can_copy_are_counted():
    there = asked()
    there.heads.meta["answers_unlike_needle"] = 5
    assert list(asked_sentences([there]))[1].startswith("In 5 needle prompts the answer is of other tokens than in the")


def test_whole_answers_are_named():
    assert "Facts are scored over all tokens of their answers (answers: whole)." in list(
        asked_sentences([asked(answers="whole")])
    )


def test_another_way_of_scoring_edges_is_told_and_the_usual_one_is_not():
    assert not list(scoring_statements([asked()]))
    (found,) = scoring_statements([asked(ig_steps=30, rule="left", circuit_edges=12, backward="gim")])
    assert found.text == (
        "Edges are scored by EAP-IG in the logit difference, 30 gradients at the left of each step, backward pass gim; "
        "a circuit holds 12 of 46 edges."
    )
    assert (found.numbers["ig_steps"], found.numbers["circuit_edges"], found.numbers["edges"]) == (30, 12, 46)
    assert found.text in run_verdict(run_of(asked(ig_steps=30, rule="left", circuit_edges=12, backward="gim")))
    (flow,) = scoring_statements([asked(method="flow", metric="none", ig_steps=0, rule="none", circuit_edges=50_000)])
    assert flow.text == (
        "Edges are scored by FLOW; 50,000 edges were asked for, so a circuit holds all 46, and none differ in what "
        "they hold."
    )


def test_every_refused_fact_is_in_the_frame():
    frame = refused_frame([asked(refused=REFUSED)])
    assert frame.kind.tolist() == ["fact"] * 3 + ["needle"]
    assert frame["index"].tolist() == [0, 1, 4, 2]
    assert frame.reason.tolist()[:3] == [reason for _, reason in REFUSED]


def facts_file(folder):
    """Ten facts of one token and thirty of two."""
    names, places = [f"name{i % 8}" for i in range(40)], [f"place{i % 8}" for i in range(40)]
    lines = []
    for i in range(40):
        answer = places[i] if i < 10 else f"{places[i]} {names[i]}"
        wrong = places[(i + 1) % 8] if i < 10 else f"{places[(i + 1) % 8]} {names[i]}"
        clean, corrupt = f"{names[i]} was born in", f"{names[(i + 1) % 8]} was born in"
        lines.append({"clean": clean, "corrupt": corrupt, "answer": answer, "wrong": wrong})
    path = folder / "facts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_most_answers_of_several_tokens_are_scored_whole_unless_told_otherwise(tiny_series, tmp_path):
    path = facts_file(tmp_path)

    def run(answers):
        prompts = prompts_for(str(tiny_series), facts=str(path), answers=answers)
        options = {"store": tmp_path / "store", "measures": ["circuit"], "device": "cpu", "progress": False}
        return circuit_drift.run(tiny_series, prompts=prompts, **options)

    by_default, one, whole = run("auto"), run("one token"), run("whole")
    assert len(by_default.points[0].circuit.answer_rank) == len(whole.points[0].circuit.answer_rank) == 40
    assert by_default.points[0].circuit.meta["answers"] == "whole"
    assert len(one.points[0].circuit.answer_rank) == 10
    assert len(one.points[0].circuit.meta["refused"]) == 30
    page = one.report(tmp_path / "report.html").read_text()
    assert "30 facts were refused and not asked" in page
    assert page.count("tokens (") >= 30
    pair = circuit_drift.diff(
        f"{tiny_series}@0",
        f"{tiny_series}@10",
        store=tmp_path / "store",
        measures=["circuit"],
        prompts=prompts_for(tiny_series, facts=path, answers="one token"),
        device="cpu",
    )
    assert len(pair.to_json()["refused_facts"]) == 30
    assert any("30 facts were refused" in sentence for sentence in pair.verdict)


@pytest.fixture(scope="module")
def letters() -> PreTrainedTokenizerFast:
    """One token for each letter."""
    alphabet = {letter: i for i, letter in enumerate(["<s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    made = Tokenizer(models.BPE(alphabet, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>")


def test_needles_that_the_usual_length_cannot_hold_get_longer_prompts_and_it_is_said(letters, tmp_path, caplog):
    source = prompts_for(tmp_path).needles
    least = least_length(letters, source.needles)
    assert least > 256
    prompts = needle_prompts_of(letters, source)
    assert (len(prompts), prompts.refused) == (5 * len(source.needles), ())
    assert 1.25 * least <= prompts.length < 1.25 * least + 8 and prompts.length % 8 == 0
    assert f"take up to {least} tokens, so prompts have {prompts.length} tokens instead of 256" in caplog.text


def test_a_length_that_was_asked_for_stays_and_its_refusals_name_one_that_fits(letters, tmp_path):
    prompts = needle_prompts_of(letters, prompts_for(tmp_path, length=128).needles)
    assert (len(prompts), prompts.length) == (0, 128)
    assert "raise the length of 128" in prompts.refused[0][1]
