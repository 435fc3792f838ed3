"""Needle maps as a measure: stored, in the table, the report and ``track``, and what their figures say."""

import math
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

import circuit_drift
from checkpoints import DriftError, open_checkpoint
from checkpoints.errors import BadPrompt
from circuit_drift.cli.commands import app
from circuit_drift.measures.figures.maps import costs_figure, maps_figure, maps_frame
from circuit_drift.measures.registry import build_measures
from circuit_drift.prompts import prompts_for
from circuit_drift.report.run_table import readings
from heads.niah.grid import NeedleMap
from heads.niah.maps import NeedleMaps
from tests.drift.handmade import point, run_of


@pytest.fixture(scope="module")
def mapped(tiny_series, tmp_path_factory):
    store = tmp_path_factory.mktemp("maps") / "store"
    arguments = ["run", tiny_series, "--measures", "maps:60+96", "--store", store, "--device", "cpu"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert "map_ppl" in result.output
    return circuit_drift.load_run(store)


def test_maps_are_measured_over_the_lengths_named_and_stored(mapped):
    assert len(mapped) == 3
    for each in mapped:
        maps = each.results["maps"]
        assert maps.depth.rows == (60.0, 96.0)
        assert maps.depth.columns == (0.1, 0.3, 0.5, 0.7, 0.9)
        assert maps.interference.rows == (12.0, 24.0)
        assert maps.interference.columns == (12.0, 24.0, 48.0)
        assert np.isfinite(maps.depth.cell_nll).all()
        assert maps.meta["prefix"] == "shared"
    frame = mapped.to_frame()
    assert {"map_ppl", "map_score", "middle_penalty", "interference_cost"} <= set(frame)
    assert readings(mapped, "maps").keys() == {"map_ppl", "map_score", "middle_penalty", "interference_cost"}
    assert len(mapped.points[0].results["maps"].to_frame()) == 2 * 5 + 2 * 3


def test_a_report_slides_through_the_maps(mapped, tmp_path):
    page = mapped.report(tmp_path / "report.html").read_text()
    assert "Needle maps over training" in page
    assert "What the middle and interference cost" in page


def test_heads_go_on_from_shared_prefixes_where_that_pays_with_the_same_scores(tiny_series, monkeypatch):
    loaded = open_checkpoint(f"{tiny_series}@10").load(device="cpu")
    (measure,) = build_measures(prompts_for(tiny_series, length=96, depths=(0.2, 0.5, 0.8)), ["heads"])
    ran = []
    handle = loaded.model.register_forward_pre_hook(lambda _, inputs: ran.append(inputs[0].numel()))
    whole, tokens = measure.compute(loaded, {}), sum(ran)
    monkeypatch.setattr("heads.rows.prefix.LEAST_TOKENS", 64)
    monkeypatch.setattr("heads.rows.prefix.LEAST_SHARE", 0.1)
    ran.clear()
    shared = measure.compute(loaded, {})
    handle.remove()
    assert sum(ran) < 0.9 * tokens
    np.testing.assert_array_equal(shared.copy, whole.copy)
    np.testing.assert_array_equal(shared.correct, whole.correct)
    np.testing.assert_allclose(shared.nll, whole.nll, atol=1e-4)
    assert shared.meta == whole.meta


def test_shared_prefixes_change_no_number(tiny_series):
    from circuit_drift.measures.tokenizers import tokenizer_of
    from heads.niah.measure import interference_map, needle_map

    loaded = open_checkpoint(f"{tiny_series}@10").load(device="cpu")
    needles = prompts_for(tiny_series).needles
    asked = (loaded.model, tokenizer_of(loaded), needles.needles, needles.haystack)
    grids = [
        (needle_map, {"lengths": (60, 90), "depths": (0.1, 0.5, 0.9)}),
        (interference_map, {"distances": (10, 20), "befores": (5, 30)}),
    ]
    for measure, grid in grids:
        one, other = (measure(*asked, **grid, prefix=prefix) for prefix in ("separate", "shared"))
        np.testing.assert_allclose(one.nll, other.nll, atol=2e-3)
        np.testing.assert_array_equal(one.recall, other.recall)
        np.testing.assert_array_equal(one.row, other.row)
    with pytest.raises(BadPrompt, match="prefix"):
        needle_map(*asked, lengths=(60,), depths=(0.5,), prefix="none")


def test_needles_with_distractors_are_hidden_alone_where_interference_is_studied(tiny_series):
    from checkpoints import open_checkpoint

    (measure,) = build_measures(prompts_for(tiny_series, length=60), ["maps:60"])
    beside = ("the code of name7 is code39 code38 .",)
    others = tuple(replace(needle, distractors=beside) for needle in measure.source.needles[:2])
    told = replace(measure, source=replace(measure.source, needles=others, depths=(0.5,)))
    plain = replace(measure, source=replace(measure.source, needles=measure.source.needles[:2], depths=(0.5,)))
    loaded = open_checkpoint(f"{tiny_series}@10").load(device="cpu")
    found, alone = told.compute(loaded, {}), plain.compute(loaded, {})
    np.testing.assert_array_equal(found.interference.nll, alone.interference.nll)
    assert not np.array_equal(found.depth.nll, alone.depth.nll)


def by_hand(nll, recall, *, axes=("length", "depth"), columns=(0.1, 0.5)):
    """Two needles in each of two columns, one answer token each."""
    return NeedleMap(
        axes, (64.0,), columns, np.zeros(4, int), np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]),
        np.array(nll, dtype=np.float32)[:, None], np.array(recall) == 1, np.repeat(np.array(columns), 2),
        np.array(recall, dtype=np.float32),
    )  # fmt: skip


@pytest.fixture
def followed():
    two, eight = math.log(2), math.log(8)
    before = NeedleMaps(by_hand([eight] * 4, [0, 0, 0.5, 1]), None, {"refused": []})
    disturbed = by_hand([two, two, two + 1, two + 1], [1, 1, 1, 0], axes=("distance", "before"), columns=(8.0, 32.0))
    after = NeedleMaps(by_hand([two, two, two + 0.5, two + 0.5], [1, 1, 1, 0.6]), disturbed, {"refused": []})
    return run_of(point(0, maps=before), point(10), point(100, maps=after))


def test_the_costs_are_differences_of_means_in_nats(followed):
    before, after = followed.points[0].results["maps"], followed.points[2].results["maps"]
    assert (before.answer_ppl, before.needle_score) == (pytest.approx(8), 0.25)
    assert after.needle_score == 1.0
    assert after.middle_penalty.value == pytest.approx(0.5)
    assert after.interference_cost.value == pytest.approx(1.0)
    assert before.interference_cost is None
    figure = costs_figure(followed)
    assert figure.layout.title.text == "Middle penalty 0.00 → 0.50, interference cost 1.00 nats per answer token"
    assert {trace.name: list(trace.x) for trace in figure.data} == {"middle penalty": [0, 2], "interference cost": [2]}
    assert figure.layout.yaxis.title.text == "answer NLL, nats per token"


def test_the_table_holds_the_cells_of_every_checkpoint_with_maps(followed):
    parts = [followed.points[place].results["maps"].to_frame() for place in (0, 2)]
    table = maps_frame(followed)
    assert table.columns.tolist() == ["step", *parts[0].columns]
    assert table["step"].tolist() == ["0"] * len(parts[0]) + ["100"] * len(parts[1])
    assert table.index.tolist() == list(range(2 + 4))
    assert table["answer_ppl"].tolist() == [*parts[0]["answer_ppl"], *parts[1]["answer_ppl"]]


def test_the_figure_holds_a_drawing_a_checkpoint_on_one_scale(followed):
    figure = maps_figure(followed)
    assert figure.layout.title.text == ("Answer perplexity over length and depth 8.00 → 2.57, needle score 0.25 → 1.00")
    assert [frame.name for frame in figure.frames] == ["step0", "step100"]
    assert [step.label for step in figure.layout.sliders[0].steps] == ["0", "100"]
    (shown,) = figure.data
    assert (shown.zmin, shown.zmax) == (0, pytest.approx(math.log10(8)))
    assert (shown.texttemplate, shown.colorbar.title.text) == ("%{text}", "log10 PPL")
    assert (list(shown.x), list(shown.y)) == (["0.1", "0.5"], ["64"])
    across, down = figure.layout.xaxis, figure.layout.yaxis
    assert (across.title.text, across.type) == ("depth (share of the text before the needle)", "category")
    assert (down.title.text, down.type) == ("length (tokens)", "category")
    np.testing.assert_allclose(shown.z, [[math.log10(2), math.log10(2 * math.exp(0.5))]], rtol=1e-5)
    np.testing.assert_allclose(figure.frames[0].data[0].z, [[math.log10(8)] * 2], rtol=1e-5)
    assert shown.text[0][1] == "3.3<br>100%"


def test_with_interference_at_every_checkpoint_a_second_panel_shows_it(followed):
    points = [each for each in followed.points if "maps" in each.results]
    both = replace(points[1].results["maps"], depth=points[0].results["maps"].depth)
    figure = maps_figure(run_of(point(0, maps=both), point(10, maps=points[1].results["maps"])))
    assert [(list(shown.x), list(shown.y)) for shown in figure.data] == [
        (["0.1", "0.5"], ["64"]),
        (["8", "32"], ["64"]),
    ]
    assert figure.layout.xaxis2.title.text == "interference (tokens before the needle)"
    assert figure.layout.yaxis2.title.text == "distance (tokens after the needle)"
    assert [len(frame.data) for frame in figure.frames] == [2, 2]


def test_what_is_no_length_is_refused(tiny_series):
    for wrong in ("long", "depths=2", "lengths=0", "widths=3", "depths="):
        with pytest.raises(
            DriftError, match=rf"maps takes tokens, as in maps:256\+512\+1024, for lengths.*got {wrong}$"
        ):
            build_measures(prompts_for(tiny_series), [f"maps:{wrong}"])
    (usual,) = build_measures(prompts_for(tiny_series, length=80), ["maps"])
    assert usual.params()["lengths"] == [40, 60, 80]
    assert usual.params()["befores"] == [10, 20, 40]


def test_the_grid_is_named_at_a_terminal(tiny_series, monkeypatch):
    named = ["maps:lengths=60+96", "maps:depths=0+0.5+1", "maps:distances=8", "maps:befores=16"]
    (measure,) = build_measures(prompts_for(tiny_series), named)
    assert (measure.lengths, measure.distances, measure.befores) == ((60, 96), (8,), (16,))
    assert measure.source.depths == (0.0, 0.5, 1.0)
    asked = {}
    monkeypatch.setattr(circuit_drift, "run", lambda _, **options: asked.update(options) or 1 / 0)
    runner = CliRunner()
    grid = ["--measures", "maps", "--lengths", "60,96", "--depths", "0,1"]
    runner.invoke(app, ["run", str(tiny_series), *grid])
    assert asked["measures"] == ["maps", "maps:60+96"]
    assert asked["prompts"].needles.depths == (0.0, 1.0)
    alone = runner.invoke(app, ["run", str(tiny_series), "--lengths", "60"])
    assert "--lengths are those of maps, which is not among the measures" in alone.output
    beyond = runner.invoke(app, ["run", str(tiny_series), "--depths", "50"])
    assert "--depths takes numbers from 0 (start) to 1 (end)" in beyond.output
    assert alone.exit_code == beyond.exit_code == 2
