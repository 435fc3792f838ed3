"""Ablation of heads and patching of edges as measures, beside the scores that they test."""

import numpy as np
import pytest

import circuit_drift
from checkpoints import DriftError
from checkpoints.errors import BadPrompt
from checkpoints.results.figure import unbroken
from circuit_drift.measures.causal.ablation_figure import ablation_figure, ablation_frame
from circuit_drift.measures.registry import build_measures
from circuit_drift.prompts import EdgeScoring, prompts_for
from circuit_drift.report.verdict import run_statements
from circuits.intervention.edge_check import EdgeCheck, check_edges
from heads.ablation.ablation import Ablation, Readout
from tests.drift.handmade import point, run_of


@pytest.fixture(scope="module")
def tested(tiny_series, tmp_path_factory):
    store = tmp_path_factory.mktemp("causal") / "store"
    measures = ["ablation:2", "patching:12"]
    asked = {"prompts": prompts_for(tiny_series, length=80), "measures": measures}
    return circuit_drift.run(tiny_series, store=store, **asked, device="cpu", progress=False)


def test_both_are_measured_with_what_they_test(tested, tmp_path):
    for each in tested:
        assert set(each.results) == {"heads", "ablation", "circuit", "patching"}
        assert each.results["ablation"].tested.heads == tuple(head.name for head in each.heads.top(2))
        assert each.results["ablation"].baseline.score == each.heads.needle_score
        check = each.results["patching"]
        assert check.edges[:12] == tuple(name for name, _ in each.circuit.top(12))
        assert len(set(check.edges)) == 24
        assert check.attributed[0] == pytest.approx(each.circuit[check.edges[0]])
    frame = tested.to_frame()
    assert {"ablated_score", "control_score", "ablation_nll", "causal", "patching_r"} <= set(frame)
    last = tested.points[-1]
    told = {each.numbers["measure"]: each for each in tested.statements if each.kind == "tested"}
    for name in ("ablation", "patching"):
        assert told[name].text == f"Step {last.label}: {last.results[name].verdict}."
        assert told[name].numbers["step"] == last.step
    page = tested.report(tmp_path / "report.html").read_text()
    assert page.index("Retrieval heads over training") < page.index("Are the retrieval heads causal?")
    assert "Edges patched for real" in page


def test_a_patched_edge_is_the_edge_patched_exactly(tiny_series):
    from checkpoints import open_checkpoint
    from circuit_drift.measures.tokenizers import tokenizer_of
    from circuits import attribute
    from circuits.intervention.exact import exact_edges

    loaded = open_checkpoint(f"{tiny_series}@0").load(device="cpu")
    facts = prompts_for(tiny_series).facts.tokenized(tokenizer_of(loaded))
    graph = attribute(loaded.model, facts, method="eap", metric="log probability", kv="query heads")
    check = check_edges(loaded.model, graph, facts, count=5)
    exact = exact_edges(loaded.model, facts, metric="log probability", kv="query heads")
    np.testing.assert_allclose(check.mean, [exact[edge] for edge in check.edges], atol=1e-5)
    assert check.meta["metric"] == "log probability"
    with pytest.raises(BadPrompt, match="one edge at least"):
        check_edges(loaded.model, graph, facts, count=0)


def test_a_check_of_edges_says_how_well_they_were_foretold(tmp_path):
    exact = np.array([[-2.0, 1.0, 0.25, 0.0], [-4.0, 1.0, -0.25, 0.0]])
    check = EdgeCheck(("a", "b", "c", "d"), np.array([1, 1, 0, 0], bool), np.array([-3.0, 1.0, 0.0, 0.0]), exact)
    assert check.pearson == pytest.approx(1.0)
    assert check.sizes == (2.0, 0.0)
    assert check.verdict == (
        "2 strongest edges change the metric by 2 on average when patched, as many random ones by 0; attributed "
        "against exact r = 1.00"
    )
    assert check.to_frame().stderr.tolist() == [1.0, 0.0, 0.25, 0.0]
    back = EdgeCheck.load(check.save(tmp_path / "check"))
    assert back.verdict == check.verdict
    figure = check.plot()
    assert list(figure.data[2].x) == [-3.0, 1.0]
    assert figure.layout.xaxis.title.text == "attributed change of the metric"
    flat = EdgeCheck(("a", "b"), np.array([1, 0], bool), np.zeros(2), exact[:, :2])
    assert np.isnan(flat.pearson)


def ablated(tested, control, *, needles=10):
    """Ten needles, each recalled whole or not at all; the NLL is 5 where it is not."""

    def readout(right, heads=()):
        recall = (np.arange(needles) < right).astype(float)
        return Readout(heads, "off", "both", recall, np.where(recall == 1, 0.125, 5.0), np.ones(needles))

    return Ablation(
        readout(needles), readout(tested, ("a1.h0",)), {"layer_matched": (readout(control, ("a1.h1",)),)},
        retrieving=("a1.h0",), needle=np.arange(needles),
    )  # fmt: skip


def test_the_figure_sets_the_best_heads_beside_their_controls():
    run = run_of(point(0, ablation=ablated(10, 10)), point(10), point(100, ablation=ablated(0, 9)))
    figure = ablation_figure(run)
    assert unbroken(figure.layout.title.text) == (
        "Needle score as it is 1.00, best heads ablated 1.00 → 0.00, layer-matched controls 1.00 → 0.90"
    )
    assert unbroken(figure.layout.title.subtitle.text).startswith("causal at 1 of 2 checkpoints")
    drawn = {trace.name: (list(trace.x), list(trace.y)) for trace in figure.data}
    assert drawn["best heads ablated"] == ([0, 2], [1.0, 0.0])
    assert [each.text for each in run_statements(run) if each.kind == "tested"] == [
        f"Step 100: {run.points[-1].results['ablation'].verdict}."
    ]
    assert ablation_frame(run).step.tolist() == ["0"] * 3 + ["100"] * 3
    row = run.to_frame().iloc[2]
    assert (row.ablated_score, row.control_score, row.causal) == (0.0, 0.9, True)
    assert row.ablation_nll == pytest.approx(0.9 * (5 - 0.125))


@pytest.mark.parametrize("wrong", ["ablation:0", "ablation:gently", "patching:0", "patching:all"])
def test_what_cannot_be_ablated_or_patched_is_refused(tiny_series, wrong):
    with pytest.raises(DriftError, match=r"as in (ablation:3|patching:50); got"):
        build_measures(prompts_for(tiny_series), [wrong])


def test_patching_takes_the_circuit_as_the_run_scores_it(tiny_series):
    prompts = prompts_for(tiny_series, scoring=EdgeScoring(method="eap"))
    (_, patching) = build_measures(prompts, ["patching"])
    assert patching.params()["circuit"]["method"] == "eap"


def test_a_diff_tells_both_results_beside_each_other():
    pair = run_of(point(0, ablation=ablated(10, 10)), point(1, ablation=ablated(0, 9))).diff(0, 1)
    (told,) = [sentence for sentence in pair.verdict if sentence.startswith("Heads ablated, at A: ")]
    assert " At B: a1.h0 are causal for retrieval here" in told
    assert not pair.significant
