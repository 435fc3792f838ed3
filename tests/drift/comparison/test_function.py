import numpy as np
import pytest
from typer.testing import CliRunner

import circuit_drift
import circuits
from checkpoints import open_series
from checkpoints.errors import BadPrompt
from circuit_drift.cli import app
from circuit_drift.comparison.pair_tables import pair_tables
from circuit_drift.comparison.transfer import measure_transfer, stored_transfer
from circuit_drift.measures.figures.roles import roles_frame
from circuit_drift.measures.pairs.roles import roles_of
from circuit_drift.prompts import EdgeScoring, prompts_for
from circuit_drift.store.store import Store


@pytest.fixture(scope="module")
def pair(tiny_series, tmp_path_factory):
    store = tmp_path_factory.mktemp("function") / "store"
    prompts = prompts_for(tiny_series, length=64)
    compared = circuit_drift.diff(f"{tiny_series}@0", f"{tiny_series}@10", store=store, prompts=prompts, progress=False)
    return compared, Store(store)


def test_a_diff_runs_each_circuit_in_both_models_and_keeps_what_it_found(pair, tiny_series):
    compared, store = pair
    points = (compared.a, compared.b)
    transfer = compared.circuit.transfer
    assert transfer.values.shape == (2, 2)
    assert not compared.groups.learned
    assert transfer.verdict not in compared.verdict, "where nothing was learned, that alone is told"
    np.testing.assert_array_equal(stored_transfer(points, store).metric, transfer.metric)
    assert stored_transfer(points[::-1], store) is None
    checkpoints = open_series(tiny_series).checkpoints[:2]
    series = prompts_for(tiny_series)
    with checkpoints[1].open() as loaded:
        facts = circuits.tokenize_facts(loaded.tokenizer, series.facts.facts)
        own = circuits.faithfulness(loaded.model, compared.circuit.circuit_b, facts)
    np.testing.assert_allclose(transfer.metric[1, 1], own.metric, atol=1e-5)
    assert np.isnan(transfer.values).all(), "an untrained model has no effect of which a circuit keeps a share"
    again = measure_transfer(checkpoints, points, store, series)
    np.testing.assert_array_equal(again.metric, transfer.metric)


def test_circuits_are_run_in_the_metric_that_they_were_scored_by(tiny_series, tmp_path):
    prompts = prompts_for(tiny_series, scoring=EdgeScoring(ig_steps=1, metric="log probability"))
    compared = circuit_drift.diff(
        f"{tiny_series}@0", f"{tiny_series}@10", store=tmp_path, prompts=prompts, measures=["transfer"], progress=False
    )
    transfer = compared.circuit.transfer
    assert transfer.meta["metric"] == "log probability"
    np.testing.assert_allclose(transfer.clean_metric[0], compared.a.circuit.clean_metric, atol=1e-5)
    assert stored_transfer((compared.a, compared.b), Store(tmp_path)) is not None


def test_circuits_of_other_facts_are_not_transferred(pair, tiny_series, tmp_path):
    compared, _ = pair
    with pytest.raises(BadPrompt, match="measured on other facts"):
        measure_transfer(
            open_series(tiny_series).checkpoints[:2],
            (compared.a, compared.b),
            Store(tmp_path),
            prompts_for(tiny_series, facts=_shorter(tiny_series, tmp_path)),
        )


def test_a_diff_tells_roles_nodes_and_depth(pair):
    compared, _ = pair
    assert [table.name for table in pair_tables(compared)] == [
        "heads", "groups", "edges", "nodes", "similarity", "profile", "transfer", "roles"
    ]  # fmt: skip
    assert not any(sentence.startswith(("Roles in", "No head of the circuits")) for sentence in compared.verdict)
    frame = roles_of(compared.a).to_frame(compared.circuit.circuit_a)
    assert {"mover", "relation", "mixture", "previous-token", "induction", "retrieval", "in_circuit"} <= set(frame)
    assert len(frame) == 8


def test_the_matrix_over_a_series_is_one_command(tiny_series, tmp_path):
    html = tmp_path / "transfer.html"
    done = CliRunner().invoke(
        app, ["transfer", str(tiny_series), "--store", str(tmp_path / "store"), "--html", str(html)]
    )
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "circuit,model,n_edges,faithfulness,low,high"
    assert [line.split(",")[:2] for line in lines[1:4]] == [["0", "0"], ["0", "10"], ["0", "100"]]
    assert len(lines) == 10
    assert html.stat().st_size > 10_000


def _shorter(series, folder):
    path = folder / "facts.jsonl"
    path.write_text("".join((series / "facts.jsonl").read_text().splitlines(keepends=True)[:4]))
    return path


def test_the_report_of_a_run_shows_roles_and_what_each_stage_did_to_the_function(tiny_series, tmp_path):
    html = tmp_path / "report.html"
    options = ["--store", str(tmp_path / "store"), "--length", "64", "--html", str(html)]
    done = CliRunner().invoke(app, ["run", str(tiny_series), *options])
    assert done.exit_code == 0, done.output
    page = html.read_text(encoding="utf-8")
    run = circuit_drift.load_run(tmp_path / "store")
    transfer = stored_transfer((run.points[0], run.points[-1]), Store(run.store))
    assert transfer.values.shape == (2, 2)
    assert "Functional transfer 0 → 100" in page
    assert "Roles of the circuit&#39;s heads" in page
    told = roles_frame(run)
    heads = {f"a{layer}.h{head}" for layer in range(2) for head in range(4)}
    assert set(told["head"]) <= heads
    assert len(told) == len(told.drop_duplicates())
