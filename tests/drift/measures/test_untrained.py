"""The untrained twin: one result a series, with the numbers of freshly drawn weights, and where they are shown."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import circuit_drift
from checkpoints import DriftError, open_checkpoint
from circuit_drift.measures import tokenizer_of
from circuit_drift.measures.figures.heads import head_lines_figure
from circuit_drift.measures.needles import needle_prompts_of
from circuit_drift.measures.registry import build_measures
from circuit_drift.measures.untrained.model import untrained
from circuit_drift.prompts import prompts_for
from circuit_drift.record.untrained import UntrainedTwin, null_point, readouts, untrained_twin
from circuit_drift.report.verdict import run_verdict
from heads import score
from tests.drift.handmade import WIRING_A, faithfulness, graph, point, retrieval, run_of, strengths


@pytest.fixture(scope="module")
def measured(tiny_series, tmp_path_factory):
    store, prompts = tmp_path_factory.mktemp("twins") / "store", prompts_for(tiny_series, length=80, depths=(0.5,))
    asked = ["heads", "circuit", "faithfulness", "untrained"]
    return circuit_drift.run(tiny_series, prompts=prompts, measures=asked, store=store, device="cpu", progress=False)


def test_a_series_has_one_twin_whatever_its_weights(measured):
    assert len({point.keys["untrained"] for point in measured}) == 1
    assert len({point.keys["heads"] for point in measured}) == len(measured) == 3
    assert len(list((measured.store / "untrained").rglob("*.safetensors"))) == 1


def test_its_numbers_are_those_of_the_config_at_random_weights(measured, tiny_series):
    from transformers import LlamaForCausalLM

    prompts = prompts_for(tiny_series, length=80, depths=(0.5,))
    with open_checkpoint(tiny_series / "checkpoint-100").open() as loaded:
        before = torch.get_rng_state()
        drawn = untrained(loaded).model.state_dict()
        assert torch.equal(before, torch.get_rng_state())
        torch.manual_seed(0)
        fresh = LlamaForCausalLM(loaded.model.config).eval()
        needles = needle_prompts_of(tokenizer_of(loaded), prompts.needles)
    assert all(torch.equal(value, drawn[name]) for name, value in fresh.state_dict().items())
    twin = untrained_twin(measured)
    np.testing.assert_allclose(twin.point.heads.mean, score(fresh, needles).mean, atol=1e-6)
    assert set(twin.parts) == {"heads", "circuit", "faithfulness"}
    assert twin.parts["circuit"].edge_scores.shape == measured.points[0].circuit.edge_scores.shape


def test_it_comes_back_from_disk_as_it_was(tmp_path):
    twin = UntrainedTwin(PARTS, {"seed": 0})
    back = UntrainedTwin.load(twin.save(tmp_path / "twin"))
    assert back.verdict == twin.verdict
    np.testing.assert_array_equal(back.parts["circuit"].edge_scores, PARTS["circuit"].edge_scores)
    assert dict(back.to_frame().itertuples(index=False)) == {
        "best head score": 0.0625,
        "retrieval heads": 0,
        "needle score": 0,
        "needle accuracy": 0.2,
        "answer perplexity": pytest.approx(np.e**2),
        "recall": 0.1,
        "clean minus corrupt metric": 2,
        "faithfulness": pytest.approx(0.25),
        "faithfulness of random circuits": pytest.approx(0.125),
    }


PARTS = {
    "heads": retrieval({(1, 0): 0.0625}, correct=2, nll=2.0),
    "circuit": graph(strengths(WIRING_A), known=1),
    "faithfulness": faithfulness((0.25, 0.25), random=[0.125]),
}


def test_verdict_figures_and_page_hold_it_beside_the_checkpoints(tmp_path):
    trained = {"heads": retrieval({(1, 0): 0.5}, correct=10), "circuit": graph(strengths(WIRING_A), known=10)}
    twin = UntrainedTwin(PARTS, {"seed": 0})
    steps = [point(step, **trained, faithfulness=faithfulness((1, 1)), untrained=twin) for step in (10, 20)]
    run = run_of(*steps)
    assert (
        "Untrained, the same model has a best head score of 0.062, needle accuracy 0.20, answer perplexity 7.4, "
        "recall 0.10, circuit faithfulness 0.25: the floor of what is found here."
    ) in run_verdict(run)
    (line,) = (trace for trace in head_lines_figure(run).data if trace.name == "best head of an untrained twin")
    assert list(line.y) == [0.0625, 0.0625]
    assert (line.mode, line.line.dash, line.line.width) == ("lines", "dash", 1)
    frame = next(section.frame for section in sections(run) if section.slug == "circuits")
    assert list(frame.untrained_overlap) == [1, 1], "the twin is wired as the checkpoints are"
    assert list(frame.untrained_faithfulness) == [0.25, 0.25]
    (table,) = (section.frame for section in sections(run) if section.slug == "untrained")
    assert list(table[table.quantity == "best head score"].iloc[0])[1:] == [0.0625, 0.5, 0.5]
    page = run.report(tmp_path / "report.html").read_text()
    assert "Beside an untrained twin" in page
    assert "edge overlap with an untrained twin" in page


def test_where_the_facts_have_no_effect_faithfulness_is_not_applicable():
    curve = faithfulness((1, 1))
    mixed = replace(curve, clean_metric=curve.corrupt_metric + np.array([1.0, -0.5]))
    assert not mixed.has_effect
    twin = UntrainedTwin({"faithfulness": mixed}, {"seed": 0})
    assert twin.verdict == "untrained, the same model has no effect of the facts of which a circuit could keep a share"
    assert np.isnan(readouts(twin.point)["faithfulness"])
    assert readouts(twin.point)["clean minus corrupt metric"] == 0.25
    measured = {"circuit": PARTS["circuit"], "faithfulness": curve, "untrained": twin}
    (drawn,) = (section.figure for section in sections(run_of(point(10, **measured))) if section.slug == "circuits")
    assert [trace.name for trace in drawn.data if "untrained" in (trace.name or "")] == [], "nothing to draw"


def test_a_step_0_that_can_do_nothing_is_the_floor_of_a_run_without_a_twin():
    graph_of = graph(strengths(WIRING_A))
    blank = {
        "heads": retrieval({(1, 0): 0.0625}),
        "circuit": replace(graph_of, clean_metric=graph_of.corrupt_metric + np.resize([1.0, -1.0], len(graph_of))),
    }
    later = point(10, heads=retrieval({(1, 0): 0.5}), circuit=graph(strengths(WIRING_A), known=10))
    run = run_of(point(0, **blank), later, replace(later, step=20, name="step20"))
    assert null_point(run) is run.points[0]
    assert (
        "At step 0 the model has a best head score of 0.062, needle accuracy 0.00, answer perplexity 2.7, recall 0.00: "
        "the floor of what is found here."
    ) in run_verdict(run)
    (line,) = (trace for trace in head_lines_figure(run).data if trace.name == "best head of step 0")
    assert list(line.y) == [0.0625] * 3
    frame = next(section.frame for section in sections(run) if section.slug == "circuits")
    assert list(frame.untrained_overlap) == [1, 1, 1], "it is wired as the later ones are, by hand"


@pytest.mark.parametrize(
    "can", [{"heads": retrieval({(1, 0): 0.5})}, {"circuit": graph(strengths(WIRING_A))}, {"heads": None}]
)
def test_a_first_checkpoint_that_can_do_something_is_no_null_model(can):
    graph_of = graph(strengths(WIRING_A))
    blank = {"heads": retrieval(), "circuit": replace(graph_of, clean_metric=graph_of.corrupt_metric)}
    assert null_point(run_of(point(0, **(blank | can)), point(10, **blank))) is None
    assert null_point(run_of(point(5, **blank), point(10, **blank))) is None, "not at step 0"


def test_a_checkpoint_without_an_effect_has_no_faithfulness():
    curve = faithfulness((1, 1))
    halves = curve.corrupt_metric[None]
    mixed = replace(curve, clean_metric=curve.corrupt_metric + np.array([1.0, -0.5]), cross_metric=halves)
    run = run_of(*(point(i, circuit=PARTS["circuit"], faithfulness=f) for i, f in ((0, mixed), (10, curve))))
    table = run.to_frame()
    assert np.isnan(table.loc[0, ["faithfulness", "cross_fitted"]].astype(float)).all()
    assert table.loc[1, "faithfulness"] == 1
    frame = next(section.frame for section in sections(run) if section.slug == "circuits")
    assert np.isnan(frame.loc[0, ["faithfulness", "low", "high", "random_circuits"]].astype(float)).all()
    assert mixed.verdict.startswith("not applicable: clean and corrupt prompts do not differ beyond the noise")
    assert mixed.plot().layout.title.text.startswith("Faithfulness is not applicable")


def test_cross_fitted_faithfulness_stands_beside_that_in_sample():
    curve = faithfulness((1, 1))
    halved = replace(curve, cross_metric=curve.corrupt_metric + 0.5 * (curve.metric - curve.corrupt_metric))
    measured = {"circuit": graph(strengths(WIRING_A), known=10), "faithfulness": halved}
    run = run_of(point(10, **measured), point(20, **measured))
    assert run.to_frame()[["faithfulness", "cross_fitted"]].values.tolist() == [[1, 0.5], [1, 0.5]]
    circuit = next(section for section in sections(run) if section.slug == "circuits")
    assert "dashed: on the half of the facts that it was not found on, both ways" in circuit.caption
    (line,) = (trace for trace in circuit.figure.data if "half of the facts it was not found on" in (trace.name or ""))
    assert list(line.y) == [0.5, 0.5]


def sections(run):
    from circuit_drift.measures.registry import kinds_in

    return [section for kind in kinds_in(run) for section in kind.sections(run, run.to_frame())]


def test_its_parts_are_those_named_with_what_they_need(tiny_series):
    prompts = prompts_for(tiny_series)
    (all_three,) = build_measures(prompts, ["untrained"])
    (circuit,) = build_measures(prompts, ["untrained:faithfulness"])
    assert [measure.name for measure in all_three.taken] == ["heads", "circuit", "faithfulness"]
    assert [measure.name for measure in circuit.taken] == ["circuit", "faithfulness"]
    with pytest.raises(DriftError, match="an untrained twin has heads, circuit, faithfulness, not roles"):
        build_measures(prompts, ["untrained:roles"])
