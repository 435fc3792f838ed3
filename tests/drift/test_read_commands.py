"""What commands print and how they exit, on checkpoints of two numbers and results made by hand: no model runs."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from checkpoints import open_series
from circuit_drift.cli import app
from tests.drift.handmade import (
    WIRING_A,
    WIRING_B,
    faithfulness,
    graph,
    keep,
    retrieval,
    roles,
    strengths,
    write_series,
)

STEPS = (0, 10, 20, 40, 80)
PARTS = "heads,circuit"


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_series(tmp_path_factory.mktemp("handmade") / "lines", STEPS)


@pytest.fixture(scope="module")
def kept(series: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Steps 0 and 10 are alike; at 20 a head changes, at 40 the circuit, at 80 the answers' probability."""
    store = tmp_path_factory.mktemp("kept") / "store"
    low, high = {(0, 1): 0.0625}, {(0, 1): 0.75, (1, 0): 0.5}
    keep(
        series,
        store,
        heads={
            0: retrieval(low, nll=math.log(8), name="checkpoint-0"),
            10: retrieval(low, nll=math.log(8), name="checkpoint-10"),
            20: retrieval(high, accepted=9, correct=4, nll=math.log(8), name="checkpoint-20"),
            40: retrieval(high, accepted=9, correct=4, nll=math.log(8), name="checkpoint-40"),
            80: retrieval(high, accepted=9, correct=4, nll=math.log(4), name="checkpoint-80"),
        },
        circuit={
            step: graph(strengths(WIRING_A if step < 40 else WIRING_B), facts=20, known=16, name=f"checkpoint-{step}")
            for step in STEPS
        },
        roles={step: roles(a0_h0="mover") for step in STEPS},
        faithfulness={step: faithfulness([0.5, 0.75], [0.75, 1.0]) for step in STEPS},
    )
    return store


def _invoke(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


def _diff(series: Path, store: Path, a: int, b: int, *options: object, measures: str = PARTS):
    return _invoke("diff", f"{series}@{a}", f"{series}@{b}", "--store", store, "--measures", measures, *options)


def _rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if "│" in line or "┃" in line]
    return [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in lines]


@pytest.mark.parametrize("how", [(), ("--json",)])
@pytest.mark.parametrize(
    ("a", "b", "status", "opening"),
    [
        (
            0,
            10,
            0,
            "Undecided whether 0 and 10 differ: no change is shown, but facts that change sides may reach 0.17 (margin "
            "0.1); measure about 16 more facts.",
        ),
        (10, 20, 1, "10 and 20 differ: 2 heads of 4 changed."),
        (20, 40, 1, "20 and 40 differ: circuits of facts kept: changed in 2 edges."),
        (40, 80, 1, "40 and 80 differ: answer NLL (nats per token) 2.08 → 1.39."),
        (
            80,
            0,
            1,
            "80 and 0 differ: circuits of facts kept: changed in 2 edges; 2 heads of 4 changed; answer NLL (nats per "
            "token) 1.39 → 2.08.",
        ),
    ],
)
def test_a_diff_exits_with_1_where_anything_changed_and_with_0_where_nothing_did(
    series, kept, a, b, status, opening, how
):
    done = _diff(series, kept, a, b, *how)
    assert done.exit_code == status, done.output
    if how:
        document = json.loads(done.stdout)
        assert document["verdict"][0] == opening
        assert document["significant"] is bool(status)
    else:
        assert f"• {opening}" in done.stdout.splitlines()


def test_a_diff_is_held_to_the_level_asked_for(series, kept):
    assert _diff(series, kept, 0, 20, "--q", 0.001, measures="heads").exit_code == 0
    assert _diff(series, kept, 0, 20, "--q", 0.04, measures="heads").exit_code == 1


def test_a_diff_names_its_page_on_the_stream_that_is_free(series, kept, tmp_path):
    page = tmp_path / "pair.html"
    done = _diff(series, kept, 0, 10, "--html", page, measures="heads")
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, str(page))
    assert "checkpoint-0 → checkpoint-10" in page.read_text(encoding="utf-8")
    done = _diff(series, kept, 10, 20, "--json", "--html", page, measures="heads")
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (1, str(page))
    json.loads(done.stdout)


def test_trouble_is_neither_a_difference_nor_none(series, kept, tmp_path):
    damaged = write_series(tmp_path / "damaged", (0, 10))
    for step in (0, 10):
        (damaged / f"checkpoint-{step}" / "model.safetensors").write_bytes(b"")
    for done, told in (
        (_diff(series, kept, 0, 11), "near it: "),
        (_diff(series, kept, 0, 10, "--q", 0), "q is a false discovery rate in (0, 1): got 0"),
        (_invoke("diff", series, series, "--measures", "norms"), ""),
        (_invoke("run", tmp_path / "nowhere"), "is no series"),
        (_invoke("run", damaged, "--store", tmp_path / "empty"), "no checkpoint of damaged could be measured: "),
        (_invoke("diff", f"{damaged}@0", f"{damaged}@10", "--store", kept), "checkpoint-0"),
    ):
        assert done.exit_code == 2, done.output
        assert told in done.stderr
        assert done.stdout == ""


def test_an_interrupt_has_a_status_of_its_own(series, kept, monkeypatch):
    def interrupted(*_words: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("checkpoints.open_series", interrupted)
    monkeypatch.setattr("checkpoints.open_checkpoint", interrupted)
    for done in (_invoke("run", series, "--store", kept), _diff(series, kept, 0, 10)):
        assert done.exit_code == 130
        assert done.stderr == (
            "circuit-drift: interrupted; what was computed is stored, and the same command goes on from there\n"
        )


def test_a_run_prints_its_table_and_its_sentences_and_exits_with_0(series, kept):
    done = _invoke("run", series, "--store", kept)
    assert done.exit_code == 0, done.output
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    assert lines[0] == "lines: 5 checkpoints"
    assert _rows(done.stdout)[::2] == [
        ["step", "needle", "exact", "ppl", "heads", "best", "score", "recall", "faithful", "edges"],
        ["10", "0", "0", "8", "0", "a0.h1", "0.0625", "0.8", "0.875", "10"],
        ["40", "0.9", "0.4", "8", "2", "a0.h1", "0.75", "0.8", "0.875", "10"],
    ]
    assert [line for line in lines if line.startswith("•")] == [
        "• a0.h1 begins to retrieve (score > 0.1) between steps 10 and 20 [10 to 20] and reaches 0.75 "
        "[0.36, 0.88] at step 20 (chosen on 5 needles, judged on 5 others). 2 (no "
        "interval: too few needles) of 4 heads retrieve at the end.",
        "• 0 → 80: Recall 0.80 → 0.80 of 20 facts: none changed sides; at most 0.17 of such facts do.",
    ]
    assert lines[-1].startswith("•")


def test_a_run_goes_on_past_a_checkpoint_that_fails_and_says_so(tmp_path):
    series = write_series(tmp_path / "lines", (0, 10))
    keep(series, tmp_path / "store", heads={0: retrieval(), 10: retrieval()})
    (series / "checkpoint-10" / "model.safetensors").write_bytes(b"")
    done = _invoke("run", series, "--store", tmp_path / "store", "--measures", "heads")
    assert done.exit_code == 3, done.output
    assert "• 1 of 2 checkpoints could not be measured in full: checkpoint-10." in done.stdout.splitlines()


def test_a_strict_run_refuses_a_series_with_an_error(tmp_path):
    series = write_series(tmp_path / "lines", (0, 10))
    twin = series / "checkpoint-10" / "model.safetensors"
    twin.write_bytes((series / "checkpoint-0" / "model.safetensors").read_bytes())
    keep(series, tmp_path / "store", heads={0: retrieval(), 10: retrieval()})
    options = ("run", series, "--store", tmp_path / "store", "--measures", "heads")
    assert _invoke(*options).exit_code == 0
    refused = _invoke(*options, "--strict")
    assert refused.exit_code == 2
    assert refused.stdout == ""
    assert "the audit of lines found errors, and the run is strict: error: identical: " in refused.stderr


def test_an_audit_exits_with_what_it_found_and_prints_it(tmp_path):
    clean = _invoke("audit", write_series(tmp_path / "clean", (0, 10, 20)))
    assert (clean.exit_code, clean.stdout) == (0, "3 checkpoints of clean (weights examined): nothing found\n")
    gap = _invoke("audit", write_series(tmp_path / "gap", (0, 10, 20, 30, 50, 60)))
    assert gap.exit_code == 1
    first, found, seen = gap.stdout.splitlines()
    assert first == "6 checkpoints of gap (weights examined): 0 errors, 1 warning"
    assert found.startswith("• warning, missing_steps (30, 50): ")
    assert seen == "  seen in: allenai/OLMo#842"


def test_a_series_is_listed(series):
    done = _invoke("show", series)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[0].strip() == "lines: 5 checkpoints"
    rows = _rows(done.stdout)
    assert rows[0] == ["checkpoint", "step", "stage", "tokens", "MB", "weights"]
    assert [row[:2] for row in rows[1:]] == [[f"checkpoint-{step}", str(step)] for step in STEPS]
    folder = series / "checkpoint-0"
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert float(rows[1][4]) == pytest.approx(size / 1e6, rel=0.01)
    assert open_series(series)[0].weights_hash.startswith(rows[1][5])
    assert len(rows[1][5]) == 12


def test_heads_are_listed_best_first(series, kept):
    done = _invoke("heads", series, "--steps", "0,20", "--store", kept, "--top", 2)
    assert done.exit_code == 0, done.output
    told = [line for line in done.stdout.splitlines() if line.startswith("•")]
    assert told == [
        "• step 0: 0 of 4 heads retrieve (score > 0.1); the best is a0.h1 at 0.0625 [0.0432, 0.352]; needle score "
        "0.0%, accuracy 0.0%, answer PPL 8, over 10 prompts of 64 tokens (intervals over 10 needles)",
        "• step 20: 2 of 4 heads retrieve (score > 0.1); the best is a0.h1 at 0.75 [0.519, 0.827]; needle score 90.0%, "
        "accuracy 40.0%, answer PPL 8, over 10 prompts of 64 tokens (intervals over 10 needles)",
    ]
    assert _rows(done.stdout)[3:] == [
        ["name", "n", "score", "low", "high", "accepted_mean", "chance", "needle_mass"],
        ["a0.h1", "10", "0.75", "0.519", "0.827", "0.75", "0.125", "0.375"],
        ["a1.h0", "10", "0.5", "0.346", "0.654", "0.5", "0.125", "0.25"],
    ]
    lists = json.loads(_invoke("heads", series, "--steps", "0,20", "--store", kept, "--json").stdout)
    assert lists["0-1"] == [0.75] * 10


@pytest.fixture(scope="module")
def measured(series, kept) -> Path:
    assert _invoke("run", series, "--store", kept).exit_code == 0
    return kept


def test_retrieval_is_followed(measured):
    done = _invoke("monitor", measured)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0] == (
        "• retrieval heads (score > 0.1): 0 (no interval: too few needles) at step 0, 2 (no interval: too few needles) "
        "at step 80; 2 births and 0 deaths on the way"
    )
    assert "Retrieval over training [95 % interval]" in done.stdout
    header, *rows = _rows(done.stdout)
    assert header == [
        "step", "retrieval_heads", "needle_score", "needle_accuracy", "answer_ppl",
        "top K shared", "spearman", "born", "died",
    ]  # fmt: skip
    assert [row[0] for row in rows] == [str(step) for step in STEPS]
    assert [row[1] for row in rows] == ["0", "0", *["2"] * 3]
    assert [row[-2:] for row in rows] == [["", ""], ["0", "0"], ["2", "0"], ["0", "0"], ["0", "0"]]


def test_the_circuit_is_followed(measured):
    done = _invoke("evolve", "--store", measured)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("• On the 16 of 20 facts recalled at some checkpoint: ")
    assert "Circuit over training" in done.stdout
    assert "births and deaths: edges that crossed the circuit's cut, chance included" in " ".join(done.stdout.split())
    header, *rows = _rows(done.stdout)
    assert header == [
        "step", "phase", "clean_metric", "J_previous", "J_previous_across", "J_previous_within", "J_last",
        "births", "deaths", "centre of mass, layers",
    ]  # fmt: skip
    # 19 of 21 edges are shared; of the circuits, B's 2 are new and A's 4 are gone
    assert [row[2] for row in rows] == ["3"] * 5
    assert [row[3] for row in rows] == ["n/a", "1", "1", "0.905", "1"]
    assert [row[6] for row in rows] == ["0.905", "0.905", "0.905", "1", "n/a"]
    assert [row[7] for row in rows] == ["0", "0", "0", "2", "0"]
    assert [row[8] for row in rows] == ["0", "0", "0", "4", "0"]


def test_track_follows_heads_and_circuit(measured):
    both = _invoke("track", measured)
    assert both.exit_code == 0, both.output
    halves = [_invoke(command, measured) for command in ("monitor", "evolve")]
    assert both.stdout == "".join(half.stdout for half in halves)
    for half, command in zip(halves, ("monitor", "evolve"), strict=True):
        assert half.stderr == (
            f"circuit-drift: the command {command} goes with the next release: track follows heads and circuit\n"
        )
    offered = "circuit-drift report report.html draws it; track --emergence usual says what emerges when"
    assert both.stderr == f"circuit-drift: next: {offered}\n"


def test_track_says_what_it_cannot_follow(series, kept, tmp_path):
    store = shutil.copytree(kept, tmp_path / "store")
    assert _invoke("run", series, "--store", store, "--measures", "heads", "--run", "alone").exit_code == 0
    done = _invoke("track", store, "--run", "alone")
    assert done.exit_code == 0, done.output
    assert "Retrieval over training" in done.stdout
    assert "Circuit over training" not in done.stdout
    assert done.stderr.startswith("circuit-drift: alone has 0 checkpoints with a circuit and a step")


def test_a_stored_report_is_written_again(measured, tmp_path):
    done = _invoke("report", tmp_path / "again.html", "--store", measured)
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path / 'again.html'}\n")
    assert "<h1>Circuits over training: lines</h1>" in (tmp_path / "again.html").read_text(encoding="utf-8")
