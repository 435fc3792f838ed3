"""Figures of all packages look alike: one module gives them titles, fonts, margins and scales."""

import circuit_drift
from checkpoints.results.figure import SIGNED, UNSIGNED, dress, unbroken
from circuit_drift.prompts import prompts_for


def test_figures_of_every_package_are_dressed_alike(tiny_series, store):
    import plotly.graph_objects as go

    prompts = prompts_for(tiny_series, length=64, depths=(0.2, 0.8))
    run = circuit_drift.run(tiny_series, store=store, prompts=prompts, device="cpu", progress=False)
    pair, point = run.diff(10, 100), run.at(100)
    figures = [run.track_heads().plot(), pair.heads.plot(), point.heads.plot()]
    figures += [pair.circuit.plot(), point.circuit.plot(), point.faithfulness.plot()]
    plain = dress(go.Figure(), title="finding").layout
    for figure in figures:
        assert figure.layout.title.text
        assert "<" not in unbroken(figure.layout.title.text)
        assert figure.layout.title.subtitle.text
        assert figure.layout.font == plain.font
        assert figure.layout.template == plain.template
        further = figure.layout.title.text.count("<br>") * 21 + figure.layout.title.subtitle.text.count("<br>") * 16
        assert (figure.layout.margin.t - further, figure.layout.margin.l) == (plain.margin.t, plain.margin.l)
    scales = [go.Figure(go.Heatmap(colorscale=name)).data[0].colorscale for name in (SIGNED, UNSIGNED)]
    assert [figure.data[0].colorscale for figure in figures[1:3]] == scales
