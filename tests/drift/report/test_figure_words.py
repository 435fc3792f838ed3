"""Every word of a figure beside its title: axes, scales, subplots, what a pointer is told."""

import numpy as np

from circuit_drift.measures.causal.writing_figure import writing_figure
from circuit_drift.measures.figures.corpora import fits_figure, fits_frame
from circuit_drift.measures.figures.lens import facts_figure, lens_figure
from circuit_drift.measures.figures.routing import shares_figure
from tests.drift.handmade import point, retrieval, run_of, transfer
from tests.drift.measures.test_corpora import losses
from tests.drift.measures.test_lens import lens
from tests.drift.measures.test_routing import routing
from tests.drift.measures.test_writing import written


def words(figure):
    """Axis -> title, in order; then subplot titles; the scales' titles; what a pointer is told, each once."""
    drawn = figure.to_dict()
    axes = {
        name: each["title"]["text"]
        for name, each in sorted(drawn["layout"].items())
        if name[1:5] == "axis" and each.get("title", {}).get("text")
    }
    subplots = [each["text"] for each in drawn["layout"].get("annotations", ())]
    scales = [trace["colorbar"]["title"]["text"] for trace in drawn["data"] if "colorbar" in trace]
    told = [trace["hovertemplate"] for trace in drawn["data"] if "hovertemplate" in trace]
    return axes, subplots, list(dict.fromkeys(scales)), list(dict.fromkeys(told))


def test_shares_of_experts():
    run = run_of(point(0, routing=routing([0.5, 0.5], [0.5, 0.5])), point(10, routing=routing([1, 0], [0.75, 0.25])))
    assert words(shares_figure(run)) == (
        {"xaxis": "expert", "xaxis2": "expert", "yaxis": "layer"},
        ["text", "answers minus text"],
        ["share", "difference"],
        ["layer %{y}, expert %{x}: %{z:.3f}<extra></extra>"],
    )


def test_ranks_of_answers():
    run = run_of(point(0, lens=lens([1000, 100], [1000, 100])), point(100, lens=lens([100, 1], [100, 10])))
    axes, _, scales, told = words(lens_figure(run))
    assert axes == {"xaxis": "step (checkpoints evenly spaced)"}
    assert scales == ["log10 rank"]
    assert told == ["%{y}: median rank %{customdata[0]:,.0f}, Hit@10 %{customdata[1]:.2f}<extra></extra>"]
    assert lens_figure(run).data[0].zmin == 0
    figure = facts_figure(run)
    axes, _, scales, _ = words(figure)
    (ranks,) = figure.data
    assert (list(ranks.x), list(ranks.y)) == ([0, 1], ["0: fact 0 is", "1: fact 1 is"])
    assert (ranks.zmin, ranks.zmax) == (0, 3)
    assert axes == {"xaxis": "after layer (0 = embedding)"}
    assert scales == ["log10 rank"]
    assert (
        figure.layout.title.subtitle.text
        == "2 facts; colour: log10 of the answer's rank, one scale for all checkpoints"
    )


def test_what_heads_write():
    writing = written([[0, 0], [2, 0]])
    axes, _, _, told = words(writing_figure(run_of(point(0, writing=writing), point(1, writing=writing))))
    assert axes == {
        "xaxis": "retrieval score (attention alone)",
        "yaxis": "write towards the copied answer, logits",
    }
    assert told == ["%{text}: score %{x:.3f}, write %{y:+.3f} logits<extra></extra>"]


def test_fits_over_corpora():
    made = [losses([[np.nan, np.log(ppl)]] * 2, [[np.nan, np.nan]] * 2) for ppl in (20, 10, 8, 6)]
    run = run_of(*(point(step, corpora=each) for step, each in zip((0, 1, 10, 100), made, strict=True)))
    axes, _, _, _ = words(fits_figure(run, fits_frame(run)))
    assert axes["xaxis2"] == "N, training steps (log)"
    assert (axes["yaxis"], axes["yaxis2"]) == ("perplexity", "PPL - fit")


def test_scores_of_heads_and_circuits_in_other_models():
    axes, _, _, told = words(retrieval({(1, 0): 0.75}).plot())
    assert axes == {"xaxis": "head", "yaxis": "layer"}
    assert told == ["a%{y}.h%{x}: %{z:.3f}<extra></extra>"]
    figure = transfer(["0", "10"], [[1.0, 0.5], [0.2, 1.0]]).plot()
    assert (figure.data[0].zmin, figure.data[0].zmax) == (0, 1)
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == ("category", "category")
    assert figure.layout.yaxis.autorange == "reversed"
    axes, _, scales, told = words(figure)
    assert axes == {"xaxis": "model", "yaxis": "circuit of"}
    assert scales == ["faithfulness"]
    assert told == ["circuit of %{y} in model %{x}: %{z:.2f} %{customdata}<extra></extra>"]
