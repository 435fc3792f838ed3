"""The scripts of `benchmarks` that measure costs run, on inputs so small that their figures say nothing."""

import sys

import pytest

from benchmarks import circuits_diff_cost, circuits_track_cost, diff_cost, heads_cost, sweep_cost
from benchmarks.series import curves
from circuits.graph.shape import GraphShape


def test_change_points_are_timed_beside_plain_loops(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["circuits_track_cost", "--sizes", "6", "8"])
    circuits_track_cost.main()
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [int(size) for size, *_ in rows] == [6, 8]
    assert all(float(cell) >= 0 for row in rows for cell in row)


def test_halves_that_are_kept_are_timed_beside_halves_made_anew():
    graphs = [circuits_diff_cost.stored(GraphShape(2, 2, 2), 8, seed) for seed in range(3)]
    assert all(spent > 0 for spent in circuits_diff_cost.overlaps(graphs))


def test_exchanges_by_weights_are_timed_beside_units_that_are_moved():
    graphs = [circuits_diff_cost.stored(GraphShape(2, 2, 2), 8, seed) for seed in range(2)]
    assert all(spent > 0 for spent in circuits_diff_cost.exchanged(*graphs, 3))


def test_an_added_point_is_timed_beside_a_record_written_anew(tmp_path):
    found = sweep_cost.record_costs(tmp_path, 40, repeats=2)
    assert found["a point added, ms"] < found["the record of 40 written anew, ms"]
    assert found["added / written anew"] < 1
    with (tmp_path / "record" / "runs" / "long.jsonl").open() as lines:
        assert sum(line.startswith("{") for line in lines) == 2


def test_shared_prefixes_are_timed_beside_batches():
    model, needles = heads_cost.demo_needles(128, 10)
    assert len(needles) == 10
    assert 0.05 < heads_cost.prefixes(model, needles) < 20
    assert 0.05 < heads_cost.prefixes(heads_cost.tiny(num_hidden_layers=1), heads_cost.at_five_depths(96)) < 20


def test_the_calls_within_a_comparison_are_counted(tiny_series, tmp_path):
    pair = ["diff", f"{tiny_series}/checkpoint-0", f"{tiny_series}/checkpoint-10", "--store", str(tmp_path / "store")]
    asked = [*pair, "--length", "32", "--measures", "heads"]
    calls, spent, whole = diff_cost.made([*asked, "--html", str(tmp_path / "pair.html")], "pair_statements")
    assert calls == 1, "what is printed and what the page says is made once"
    assert 0 < spent < whole
    assert diff_cost.made(["status", pair[-1]], "pair_statements")[0] == 0


def test_only_a_command_that_ends_well_has_a_time(tmp_path):
    assert diff_cost.seconds(["diff", "--help"], tmp_path) > 0
    with pytest.raises(RuntimeError, match="diff ended with 2"):
        diff_cost.seconds(["diff", "--no-such-option"], tmp_path)


@pytest.mark.parametrize("kind", ["back", "excursion", "ends", "growing", "uneven"])
def test_planted_changes_are_looked_for_in_a_short_curve(kind):
    places, scores = curves.curve(kind, 12, seed=0)
    assert len(places) == len(scores) == 12
    assert (places[1:] > places[:-1]).all(), "steps go up"
    whole, widths, others = curves.looked(kind, 12, seed=0)
    assert len(widths) <= whole
    assert all(width >= 1 for width in widths) and others >= 0
