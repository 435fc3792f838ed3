"""The logit lens: the stream after each layer read as the last, and what is said of it over training."""

import numpy as np
import pytest
import torch

import circuit_drift
from checkpoints import open_checkpoint
from circuit_drift.measures.figures.lens import facts_figure, lens_figure, lens_frame
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.prompts import prompts_for
from circuits.trace.lens import LogitLens, logit_lens
from tests.drift.handmade import point, run_of


@pytest.fixture(scope="module")
def loaded(tiny_series):
    return open_checkpoint(f"{tiny_series}@10").load(device="cpu")


def test_each_layer_is_read_as_if_it_were_the_last(tiny_series, loaded):
    facts = prompts_for(tiny_series).facts.tokenized(tokenizer_of(loaded))
    lens, model = logit_lens(loaded.model, facts, batch_size=3), loaded.model
    assert lens.rank.shape == (8, 3)
    with torch.no_grad():
        for row, (ids, answer) in enumerate(zip(facts.clean, facts.answer, strict=True)):
            out = model(torch.tensor([ids]), output_hidden_states=True)
            streams = [model.model.norm(hidden[0, -1]) for hidden in out.hidden_states[:-1]]
            logits = [*(model.lm_head(stream) for stream in streams), out.logits[0, -1]]
            assert lens.rank[row].tolist() == [int((each > each[answer[0]]).sum()) + 1 for each in logits]


def test_the_last_layer_is_the_models_own_rank(tiny_series, store, tmp_path):
    asked = {"store": store, "measures": ["lens", "circuit"], "device": "cpu", "progress": False}
    run = circuit_drift.run(tiny_series, **asked)
    for each in run:
        assert (each.results["lens"].rank[:, -1] - 1).tolist() == each.circuit.answer_rank.tolist()
    assert {"lens_hit@1", "lens_hit@10", "lens_rank", "lens_layer"} <= set(run.to_frame())
    page = run.report(tmp_path / "report.html").read_text()
    assert "Logit lens: where answers come to the top" in page
    assert "Logit lens, fact by fact" in page


def lens(*ranks):
    names = tuple(f"fact {i} is" for i in range(len(ranks)))
    return LogitLens(
        np.array(ranks), names, tuple({"class": "even" if i % 2 == 0 else "odd"} for i in range(len(ranks)))
    )


def test_an_answer_has_settled_where_it_stays_on_top(tmp_path):
    found = lens([1, 50, 2, 1], [500, 10, 10, 3], [70, 9, 8, 11], [1, 1, 1, 1])
    np.testing.assert_array_equal(found.settled, [2, 1, np.nan, 0])
    assert found.mean_settled == 1.0
    assert found.hit(10).tolist() == [0.5, 0.75, 1.0, 0.75]
    assert found.median.tolist() == [35.5, 9.5, 5.0, 2.0]
    assert found.verdict == (
        "3 of 4 answers among the 10 top tokens at the end, from layer 1.0 of 3 on average; median rank 36 at the "
        "embedding, 2 at the end"
    )
    assert LogitLens.load(found.save(tmp_path / "lens")).verdict == found.verdict
    frame = found.to_frame()
    assert frame.columns.tolist() == ["fact", "class", "settled", *(f"layer {i}" for i in range(4))]
    never = lens([90, 80], [70, 60])
    assert np.isnan(never.mean_settled)
    assert "0 of 2 answers among the 10 top tokens at the end; median" in never.verdict


def test_the_figures_show_layers_over_training_and_facts_by_layer():
    run = run_of(point(0, lens=lens([1000, 100], [1000, 100])), point(10), point(100, lens=lens([100, 1], [100, 10])))
    figure = lens_figure(run)
    assert figure.layout.title.text == (
        "Median rank of the answer at the end of the layers 100 → 6; Hit@10 0.00 → 1.00"
    )
    assert figure.layout.title.subtitle.text.startswith(
        "at the last checkpoint answers stay among the 10 top tokens from layer 1.0 of 1 on average"
    )
    assert list(figure.data[0].x) == [0, 2]
    np.testing.assert_allclose(figure.data[0].z, np.log10([[1000, 100], [100, 5.5]]))
    facts = facts_figure(run)
    assert facts.layout.title.text == "2 of 2 answers are among the 10 top tokens at the last checkpoint"
    assert [frame.name for frame in facts.frames] == ["step0", "step100"]
    np.testing.assert_allclose(facts.frames[0].data[0].z, [[3, 2], [3, 2]])
    assert lens_frame(run).median_rank.tolist() == [1000, 100, 100, 5.5]
