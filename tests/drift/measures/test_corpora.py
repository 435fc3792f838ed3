"""Corpus perplexity by name, its fit over training, and LongPPL: against plain forwards and by hand."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import circuit_drift
from checkpoints import DriftError, open_checkpoint
from checkpoints.errors import BadPrompt, CheckpointMismatch
from checkpoints.results.figure import unbroken
from circuit_drift.cli.commands import app
from circuit_drift.measures.corpora import CorporaMeasure
from circuit_drift.measures.figures.corpora import fits_figure, fits_frame, judge_of, long_figure
from circuit_drift.measures.registry import build_measures
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.prompts import prompts_for
from circuit_drift.report.run_table import readings
from heads.niah.corpora import CorpusLoss
from heads.niah.corpus_loss import corpus_loss
from tests.drift.handmade import point, run_of

TEXT = "the river walks . a bird sees the stone and the river . name1 was born in place2 . "


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpora")
    (root / "plain.txt").write_text(TEXT * 8)
    lines = [{"text": TEXT * n} for n in (1, 2, 3)]
    (root / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "many").mkdir()
    for i in range(2):
        (root / "many" / f"{i}.txt").write_text(f"code{i} of name{i} . " * 10)
    return root


def test_losses_are_those_of_plain_forwards_over_the_long_and_the_short_context(tiny_series):
    loaded = open_checkpoint(f"{tiny_series}@10").load(device="cpu")
    tokenizer, model = tokenizer_of(loaded), loaded.model
    found = corpus_loss(model, tokenizer, {"a": [TEXT * 3]}, length=30, short=8, stride=3, windows=1)
    ids = tokenizer(TEXT * 3).input_ids[:30]

    def loss(part):
        with torch.no_grad():
            logits = model(torch.tensor([part])).logits[0, :-1].float()
        return torch.nn.functional.cross_entropy(logits, torch.tensor(part[1:]), reduction="none").numpy()

    np.testing.assert_allclose(found.long[0, 1:], loss(ids), atol=2e-3)
    assert np.isnan(found.long[0, 0])
    assert np.flatnonzero(~np.isnan(found.short[0])).tolist() == list(range(9, 30))
    for token in (9, 11, 12, 29):
        start = 9 + (token - 9) // 3 * 3 - 8
        assert found.short[0, token] == pytest.approx(loss([ids[0], *ids[start : token + 1]])[-1], abs=2e-3)
    with pytest.raises(BadPrompt, match="a short context has 1 to 29 tokens"):
        corpus_loss(model, tokenizer, {"a": [TEXT]}, length=30, short=30, stride=3)
    with pytest.raises(BadPrompt, match="the corpus b has no text of two tokens"):
        corpus_loss(model, tokenizer, {"a": [TEXT], "b": [""]}, length=30, short=3, stride=3)


@pytest.fixture(scope="module")
def followed(tiny_series, folder, tmp_path_factory):
    store = tmp_path_factory.mktemp("followed") / "store"
    arguments = ["run", tiny_series, "--length", 64, "--measures", f"heads,corpora:{folder}", "--store", store]
    result = CliRunner().invoke(app, [str(argument) for argument in [*arguments, "--device", "cpu"]])
    assert result.exit_code == 0, result.output
    return circuit_drift.load_run(store)


def test_named_corpora_are_columns_of_the_table_and_sections_of_the_report(followed, tmp_path):
    frame = followed.to_frame()
    assert {f"{kind}_{name}" for kind in ("ppl", "longppl") for name in ("lines", "many", "plain")} <= set(frame)
    assert readings(followed, "corpora").keys() >= {"ppl_plain", "ppl_many"}
    told = followed.points[0].results["corpora"].to_frame()
    assert told.windows.tolist() == [3, 2, 3]
    assert told.tokens.tolist() == [19 * (1 + 2 + 3), 2 * 40, 19 * 8]
    page = followed.report(tmp_path / "report.html").read_text()
    assert "Corpus perplexity over training" in page
    assert "LongPPL: perplexity of the tokens that need the long context" in page


def test_track_sets_corpora_against_downstream_scores(followed, tmp_path):
    scores = tmp_path / "scores.csv"
    scores.write_text("step,quiz\n0,0.1\n10,0.2\n100,0.5\n")
    arguments = ["track", followed.store, "--downstream", scores, "--measures", "corpora"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert "ppl_plain against quiz: their changes from checkpoint to checkpoint correlate at " in result.output
    assert "no correlation: longppl_plain has no value at any of 3 checkpoints" in result.output
    refused = CliRunner().invoke(app, ["track", str(followed.store), "--measures", "corpora"])
    assert refused.exit_code == 2
    assert "numbers of other measures are set against --downstream SCORES" in refused.output


def losses(long, short, corpus=(0, 0)):
    return CorpusLoss(
        ("wiki",), np.array(corpus), np.array(long, float), np.array(short, float),
        {"length": 4, "short": 2, "stride": 1},
    )  # fmt: skip


def test_key_tokens_gain_two_nats_and_cost_less_than_two(tmp_path):
    long = [[np.nan, 1.0, 0.5, 1.9], [np.nan, 3.0, 2.5, 0.25]]
    short = [[np.nan, np.nan, 2.75, 3.8], [np.nan, np.nan, 9.0, 2.5]]
    judge = losses(long, short)
    assert judge.key_tokens().tolist() == [[False, False, True, False], [False, False, False, True]]
    assert judge.ppl("wiki").value == pytest.approx(math.exp((1 + 0.5 + 1.9 + 3 + 2.5 + 0.25) / 6))
    assert judge.long_ppl("wiki", judge.key_tokens()).value == pytest.approx(math.exp(0.375))
    assert (judge.long_ppl("wiki", judge.key_tokens()).low, judge.long_ppl("wiki", judge.key_tokens()).high) == (
        pytest.approx(math.exp(0.25)), pytest.approx(math.exp(0.5))
    )  # fmt: skip
    assert math.isnan(judge.long_ppl("wiki", np.zeros((2, 4), bool)).value)
    back = CorpusLoss.load(judge.save(tmp_path / "loss"))
    assert back.verdict == judge.verdict
    with pytest.raises(BadPrompt, match="no corpus is called 'code'; there are wiki"):
        judge.ppl("code")


def test_the_figures_say_first_last_slope_and_what_is_left_over():
    made = [losses([[np.nan, math.log(ppl)]] * 2, [[np.nan, np.nan]] * 2) for ppl in (20, 10, 8, 6)]
    run = run_of(*(point(step, corpora=each) for step, each in zip((0, 1, 10, 100), made, strict=True)))
    frame = fits_frame(run)
    assert frame.counted_in.unique().tolist() == ["steps"]
    np.testing.assert_allclose(frame.residual, [np.nan, 0, 0, 0], atol=1e-6)
    figure = fits_figure(run, frame)
    assert unbroken(figure.layout.title.text) == "Corpus perplexity wiki 20.00 → 6.00 (A = -0.869, B = 10, R² = 1.00)"
    assert figure.layout.xaxis2.title.text == "N, training steps (log)"
    assert CorporaMeasure.along(run)["longppl_wiki"] == pytest.approx([math.nan] * 4, nan_ok=True)
    assert unbroken(long_figure(run).layout.title.text) == "LongPPL wiki not measured"


def test_longppl_takes_its_key_tokens_from_the_last_checkpoint():
    last = losses([[np.nan, 1.0], [np.nan, 0.0]], [[np.nan, 4.0], [np.nan, 0.0]])
    first = losses([[np.nan, 3.0], [np.nan, 0.0]], [[np.nan, 3.0], [np.nan, 9.0]])
    run = run_of(point(0, corpora=first), point(5), point(10, corpora=last))
    found = CorporaMeasure.along(run)["longppl_wiki"]
    assert found == pytest.approx([math.exp(3), math.nan, math.exp(1)], nan_ok=True)
    assert run.to_frame().longppl_wiki.tolist() == pytest.approx(found, nan_ok=True)
    figure = long_figure(run)
    assert unbroken(figure.layout.title.text) == "LongPPL wiki 20.09 → 2.72"
    assert unbroken(figure.layout.title.subtitle.text).endswith(
        "key tokens of those that have a short context: wiki 1/2"
    )


def test_corpora_are_refused_by_name(tiny_series, folder, tmp_path):
    prompts = prompts_for(tiny_series)
    with pytest.raises(DriftError, match="corpora are named: say corpora:NAME=FILE"):
        build_measures(prompts, ["corpora"])
    with pytest.raises(DriftError, match="no file or folder nowhere"):
        build_measures(prompts, ["corpora:nowhere"])
    with pytest.raises(DriftError, match="two corpora are called plain"):
        build_measures(prompts, [f"corpora:{folder}", f"corpora:plain={folder / 'plain.txt'}"])
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"words": 1}\n')
    with pytest.raises(BadPrompt, match="line 1 is no document: it needs an object with a text"):
        build_measures(prompts, [f"corpora:bad={bad}"])


def test_a_judge_that_was_named_chooses_the_key_tokens(tiny_series, folder):
    names = [f"corpora:plain={folder / 'plain.txt'}", f"corpora:judge={tiny_series}@100"]
    (measure,) = build_measures(prompts_for(tiny_series, length=40), names)
    (plain,) = build_measures(prompts_for(tiny_series, length=40), names[:1])
    judge = open_checkpoint(f"{tiny_series}@100")
    assert measure.params() == {**plain.params(), "judge": judge.weights_hash}
    assert measure.origins["judge of LongPPL"] == f"{tiny_series}@100"
    found = measure.compute(open_checkpoint(f"{tiny_series}@0").load(device="cpu"), {})
    own = plain.compute(judge.load(device="cpu"), {})
    np.testing.assert_array_equal(found.chosen, own.key_tokens())
    np.testing.assert_array_equal(CorpusLoss.load(found.save(folder.parent / "judged")).chosen, own.key_tokens())
    assert own.judged is None
    other = losses([[np.nan, 1.0]] * 2, [[np.nan, 4.0]] * 2)
    named = replace(
        other, judged=np.array([[False, True], [False, False]]), meta={"judge": {"name": "big", "weights": "ab" * 9}}
    )
    assert named.verdict == "wiki PPL 2.72 [2.72, 2.72]; LongPPL wiki 2.72 (no interval: too few units), judged by big"
    assert judge_of(run_of(point(0, corpora=named))) == "big (weights abababababab)"
    assert judge_of(run_of(point(5, corpora=other))) == "the last checkpoint measured, 5, which favours it"
    assert "judged by big (weights abababababab)" in unbroken(
        long_figure(run_of(point(0, corpora=named))).layout.title.subtitle.text
    )
    with pytest.raises(DriftError, match="LongPPL has one judge; got a and b"):
        build_measures(prompts_for(tiny_series), [*names[:1], "corpora:judge=a", "corpora:judge=b"])


def test_a_judge_of_other_tokens_is_refused(tiny_series, folder, monkeypatch):
    names = [f"corpora:plain={folder / 'plain.txt'}", f"corpora:judge={tiny_series}@100"]
    (measure,) = build_measures(prompts_for(tiny_series, length=40), names)
    monkeypatch.setattr(CorporaMeasure, "_judgement", lambda *_: ({"plain": [(1, 2)]}, None))
    with pytest.raises(CheckpointMismatch, match="cuts the corpora into other tokens than this checkpoint"):
        measure.compute(open_checkpoint(f"{tiny_series}@0").load(device="cpu"), {})
