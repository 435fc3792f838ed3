"""Every word of a figure beside its title: axes, scales, subplots, what a pointer is told."""

from circuit_drift.measures.figures.lens import facts_figure, lens_figure
from circuit_drift.measures.figures.routing import shares_figure
from tests.drift.handmade import point, run_of
from tests.drift.measures.test_lens import lens
from tests.drift.measures.test_routing import routing


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
    figure = facts_figure(run)
    axes, _, scales, _ = words(figure)
    assert axes == {"xaxis": "after layer (0 = embedding)"}
    assert scales == ["log10 rank"]
    assert (
        figure.layout.title.subtitle.text
        == "2 facts; colour: log10 of the answer's rank, one scale for all checkpoints"
    )
