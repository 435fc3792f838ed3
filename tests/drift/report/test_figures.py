"""Figures of all packages look alike: one module gives them titles, fonts, margins and scales."""

import checkpoints
import circuit_drift
from checkpoints.results.figure import SIGNED, UNSIGNED, dress


def test_figures_of_every_package_are_dressed_alike(store):
    import plotly.graph_objects as go

    run = circuit_drift.run(checkpoints.open_series("demo").select("0,1000,9000"), store=store, progress=False)
    pair, point = run.diff(1000, 9000), run.at(9000)
    figures = [run.track_heads("pretrain").plot(), pair.heads.plot(), point.heads.plot()]
    figures += [pair.circuit.plot(), point.circuit.plot(), point.faithfulness.plot()]
    plain = dress(go.Figure(), title="finding").layout
    for figure in figures:
        assert figure.layout.title.text
        assert "<" not in figure.layout.title.text
        assert figure.layout.title.subtitle.text
        assert figure.layout.font == plain.font
        assert figure.layout.template == plain.template
        assert (figure.layout.margin.t, figure.layout.margin.l) == (plain.margin.t, plain.margin.l)
    scales = [go.Figure(go.Heatmap(colorscale=name)).data[0].colorscale for name in (SIGNED, UNSIGNED)]
    assert [figure.data[0].colorscale for figure in figures[1:3]] == scales
