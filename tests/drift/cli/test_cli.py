"""The command line as a user meets it: what it prints, how it exits, what it says when things are wrong."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import circuit_drift
from circuit_drift.cli import app, main

runner = CliRunner()


@pytest.fixture(scope="module")
def measured(tiny_series: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("cli") / "store"
    done = runner.invoke(app, ["run", str(tiny_series), "--store", str(store), "--length", "64"])
    assert done.exit_code == 0, done.output
    return store


def _diff(store: Path, a: object, b: object, *options: str):
    return runner.invoke(app, ["diff", str(a), str(b), "--store", str(store), "--length", "64", *options])


def _fails(*arguments: object) -> str:
    done = runner.invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    return done.stderr


def test_run_prints_the_table_and_names_the_report_last(tiny_series, measured, tmp_path):
    html = tmp_path / "report.html"
    done = runner.invoke(
        app, ["run", str(tiny_series), "--store", str(measured), "--length", "64", "--html", str(html)]
    )
    assert done.exit_code == 0, done.output
    assert "tiny-series: 3 checkpoints" in done.stdout
    assert done.stdout.splitlines()[-1] == str(html)
    assert html.stat().st_size < 10_000_000


def test_a_narrow_terminal_cuts_no_number_short(tiny_series, measured, monkeypatch, capsys):
    from rich.console import Console

    from circuit_drift.cli import render

    run = circuit_drift.load_run(measured)
    monkeypatch.setattr(render, "_console", lambda: Console(width=40, highlight=False, markup=False))
    render.print_run(run)
    lines = capsys.readouterr().out.splitlines()
    heads = [line for line in lines if "┃" in line]
    assert len(heads) > 1
    assert all("step" in line for line in heads)
    assert not any("…" in line for line in lines if "│" in line)


def test_a_name_in_brackets_is_no_markup(tiny_series, tmp_path):
    options = ["--store", str(tmp_path / "store"), "--length", "64", "--measures", "heads", "--steps", "last"]
    done = runner.invoke(app, ["run", str(tiny_series), *options, "--run", "mine [a1.h2]"])
    assert "mine [a1.h2]: 1 checkpoint" in done.stdout


def test_a_checkpoint_does_not_differ_from_itself(tiny_series, measured):
    folder = tiny_series / "checkpoint-10"
    done = _diff(measured, folder, folder)
    assert done.exit_code == 0, done.output
    assert "no change is shown" in done.stdout


def test_eight_facts_of_two_random_models_are_too_few_and_a_step_is_the_same_as_its_folder(tiny_series, measured):
    by_folder = _diff(measured, tiny_series / "checkpoint-0", tiny_series / "checkpoint-100", "--json")
    by_step = _diff(measured, f"{tiny_series}@0", f"{tiny_series}@100", "--json")
    assert by_folder.exit_code == by_step.exit_code == 0, by_folder.output
    assert json.loads(by_step.stdout)["outcome"] == "undecided"
    assert json.loads(by_folder.stdout) == json.loads(by_step.stdout)


def test_json_is_one_object_and_strictly_json(tiny_series, measured, tmp_path):
    html = tmp_path / "pair.html"
    done = _diff(measured, f"{tiny_series}@0", f"{tiny_series}@10", "--json", "--html", str(html))
    document = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert document["a"]["step"] == 0
    assert document["b"]["step"] == 10
    assert document["significant"] == (done.exit_code == 1)
    assert {row["name"] for row in document["heads"]} == {f"a{layer}.h{head}" for layer in (0, 1) for head in range(4)}
    assert html.is_file()


def test_swapping_a_and_b_flips_every_sign(tiny_series, measured):
    forth = json.loads(_diff(measured, f"{tiny_series}@0", f"{tiny_series}@100", "--json").stdout)
    back = json.loads(_diff(measured, f"{tiny_series}@100", f"{tiny_series}@0", "--json").stdout)
    for part, name in (("heads", "name"), ("edges", "edge")):
        change = {row[name]: row["delta"] for row in forth[part]}
        assert {row[name]: -row["delta"] for row in back[part]} == pytest.approx(change)


def test_a_stored_report_needs_no_checkpoint(measured, tmp_path):
    done = runner.invoke(app, ["report", str(tmp_path / "again.html"), "--store", str(measured)])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "again.html").is_file()
    assert done.stderr == (
        "circuit-drift: next: circuit-drift track follows the same run at a terminal; diff A B compares two of its "
        "checkpoints\n"
    )


def test_show_lists_the_series(tiny_series):
    done = runner.invoke(app, ["show", str(tiny_series)])
    assert done.exit_code == 0
    assert "checkpoint-100" in done.stdout


def test_show_lists_what_is_damaged_with_the_reason(tiny_series, tmp_path):
    root = shutil.copytree(tiny_series, tmp_path / "run")
    (root / "checkpoint-100" / "model.safetensors").unlink()
    done = runner.invoke(app, ["show", str(root)])
    assert (done.exit_code, "checkpoint-0" in done.stdout) == (3, True)
    assert "• damaged: " in done.stdout
    assert "the list of run is incomplete, so the exit status is 3: checkpoint-100" in done.stderr
    for folder in root.glob("checkpoint-*"):
        (folder / "model.safetensors").unlink(missing_ok=True)
    assert "no checkpoint of run can be read; the reasons are above" in _fails("show", root)


def test_a_folder_that_is_no_checkpoint(tmp_path, tiny_series):
    assert "is no checkpoint" in _fails("diff", tmp_path, tiny_series / "checkpoint-0", "--store", tmp_path / "s")
    assert "is no series" in _fails("run", tmp_path / "missing")


def test_an_unknown_step_suggests_the_near_ones(tiny_series, tmp_path):
    assert "near it: " in _fails("diff", f"{tiny_series}@11", f"{tiny_series}@0", "--store", tmp_path / "s")


@pytest.mark.parametrize("damage", ["truncated", "empty", "missing"])
def test_damaged_weights_are_named(tiny_series, tmp_path, damage):
    folder = tmp_path / "checkpoint-7"
    shutil.copytree(tiny_series / "checkpoint-0", folder)
    weights = folder / "model.safetensors"
    if damage == "missing":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[: 500 if damage == "truncated" else 0])
    message = _fails("diff", folder, tiny_series / "checkpoint-0", "--store", tmp_path / "store")
    assert "checkpoint-7" in message


def test_two_shapes_are_refused(tiny_series, tmp_path):
    from tests.drift.conftest import save_model

    save_model(tmp_path / "checkpoint-0", 0, hidden_size=64)
    message = _fails("diff", tmp_path / "checkpoint-0", tiny_series / "checkpoint-0", "--store", tmp_path / "store")
    assert "head_dim is 16" in message


def test_two_tokenizers_are_refused(tiny_series, tmp_path):
    folder = tmp_path / "checkpoint-0"
    shutil.copytree(tiny_series / "checkpoint-0", folder)
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"river"', '"stream"'))
    assert "tokenizer" in _fails("diff", folder, tiny_series / "checkpoint-0", "--store", tmp_path / "store")


def test_facts_that_cannot_be_scored_are_refused_one_by_one(tiny_series, tmp_path):
    good = (tiny_series / "facts.jsonl").read_text()
    two_tokens = {"clean": "name0 was born in", "corrupt": "name1 was born in", "answer": "place0 and", "wrong": "the"}
    unequal = {"clean": "name0 was born in", "corrupt": "the name1 was born in", "answer": "place0", "wrong": "the"}
    path = tmp_path / "facts.jsonl"
    path.write_text(good + json.dumps(two_tokens) + "\n" + json.dumps(unequal) + "\n")
    done = _diff(tmp_path / "store", f"{tiny_series}@0", f"{tiny_series}@10", "--facts", str(path), "--json")
    refused = json.loads(done.stdout)["refused_facts"]
    assert [entry["index"] for entry in refused] == [8, 9]
    path.write_text(json.dumps(two_tokens) + "\n")
    done = _diff(tmp_path / "other", f"{tiny_series}@0", f"{tiny_series}@10", "--facts", str(path))
    assert "Not compared: circuit" in done.stdout


def test_a_missing_prompt_file_is_named(tiny_series, tmp_path):
    message = _fails("run", tiny_series, "--facts", tmp_path / "nothing.jsonl", "--store", tmp_path / "store")
    assert "nothing.jsonl" in message


def test_a_misspelt_task_is_told_the_names(tiny_series, tmp_path):
    assert "ioi, greater-than" in _fails("run", tiny_series, "--facts", "oio", "--store", tmp_path / "store")


@pytest.mark.parametrize("command", [["report", "x.html", "--store"], ["track"], ["track", "--store"]])
def test_reading_a_store_that_is_not_there_makes_none(tmp_path, command):
    assert "there is no store" in _fails(*command, tmp_path / "typo")
    assert not (tmp_path / "typo").exists()


def test_a_stored_run_is_kept_beside_another_and_never_replaced_in_silence(tiny_series, tmp_path, caplog):
    options = ["run", str(tiny_series), "--store", str(tmp_path / "store"), "--length", "64", "--measures", "heads"]
    assert runner.invoke(app, options).exit_code == 0
    assert runner.invoke(app, [*options, "--steps", "last", "--run", "last one"]).exit_code == 0
    assert "replaced" not in caplog.text
    loaded = [circuit_drift.load_run(tmp_path / "store", name) for name in ("tiny-series", "last one")]
    assert [len(run) for run in loaded] == [3, 1]
    assert "float32" in _fails(*options, "--steps", "last", "--dtype", "no-such")
    assert len(circuit_drift.load_run(tmp_path / "store", "tiny-series")) == 3, "nothing was measured"
    caplog.clear()
    assert runner.invoke(app, [*options, "--steps", "last"]).exit_code == 0
    assert "keeps 2 checkpoints that are not measured now" in caplog.text
    assert len(circuit_drift.load_run(tmp_path / "store", "tiny-series")) == 3, "a selection joins the stored run"
    caplog.clear()
    assert runner.invoke(app, [*options, "--steps", "last", "--dtype", "bfloat16"]).exit_code == 0
    assert "replaced, which has 2 checkpoints that this one has not and another question" in caplog.text
    assert len(circuit_drift.load_run(tmp_path / "store", "tiny-series")) == 1


def test_a_measure_that_does_not_exist_is_refused_before_a_store_is_made(tiny_series, tmp_path):
    wrong = ["--measures", "head", "--store", str(tmp_path / "store")]
    assert "choose from heads" in _fails("diff", f"{tiny_series}@0", f"{tiny_series}@10", *wrong)
    assert not (tmp_path / "store").exists()


def test_a_transfer_measures_the_circuits_that_it_needs(tiny_series, measured, tmp_path):
    html = tmp_path / "new" / "pair.html"
    done = _diff(measured, f"{tiny_series}@0", f"{tiny_series}@10", "--measures", "transfer", "--json")
    document = json.loads(done.stdout)
    assert {row["model"] for row in document["transfer"]} == {"0", "10"}
    assert document["heads"] is None
    matrix = ["transfer", str(tiny_series), "--steps", "0,10", "--store", str(measured)]
    done = runner.invoke(app, [*matrix, "--html", str(html)])
    assert done.exit_code == 0, done.output
    assert "plotly" in html.read_text(encoding="utf-8")
    assert runner.invoke(app, matrix).stderr.splitlines()[-1] == "circuit-drift: next: --html transfer.html draws it"
    assert "cannot be written" in _fails(*matrix, "--html", html / "below a file")


def test_a_margin_and_siblings_are_asked_for_at_a_terminal(tiny_series, measured):
    first, last, other = (f"{tiny_series}@{step}" for step in (0, 100, 10))
    told = json.loads(_diff(measured, first, last, "--json", "--delta", "nll=5", "--floor", other).stdout)
    assert told["deltas"]["nll"] == 5
    assert next(q for q in told["questions"] if q["name"] == "answer NLL")["outcome"] == "equivalent"
    assert told["floor"]["names"] == ["10"]
    assert told["floor"]["pairs"] == 1
    assert {"facts that change sides", "answer NLL"} <= {change["name"] for change in told["floor"]["changes"]}
    assert "--delta takes NAME=NUMBER, as recall=0.05; got 'nll'" in _fails("diff", first, last, "--delta", "nll")
    assert "there is no delta 'loss'" in _fails("diff", first, last, "--store", measured, "--delta", "loss=1")


def test_six_needles_leave_a_pair_undecided_and_it_says_how_many_more_would_do(tiny_series, measured):
    done = _diff(measured, f"{tiny_series}@0", f"{tiny_series}@100", "--measures", "heads")
    assert done.exit_code == 0, done.output
    assert "Undecided whether 0 and 100 differ: no change is shown, but the largest change of a head's" in done.stdout
    assert "(margin 0.1); measure about 53 more needles." in done.stdout
    assert "Heads: 0 of 8 changed" in done.stdout
    done = _diff(measured, f"{tiny_series}@0", f"{tiny_series}@0", "--measures", "heads")
    assert "are equivalent: " in done.stdout


def test_a_device_map_is_used_for_the_transfer_of_a_report_too(tiny_series, tmp_path, monkeypatch):
    import checkpoints.loading.stream as streams

    seen = []
    stream = streams.stream
    monkeypatch.setattr(streams, "stream", lambda *a, **k: seen.append(a[1].device_map) or stream(*a, **k))
    options = ["--store", str(tmp_path / "s"), "--measures", "circuit", "--html", str(tmp_path / "r.html")]
    mapped = tmp_path / "map.json"
    mapped.write_text('{"": "cpu"}')
    done = runner.invoke(app, ["run", str(tiny_series), *options, "--device-map", str(mapped)])
    assert done.exit_code == 0, done.output
    assert seen == [{"": "cpu"}]


def test_a_device_map_that_is_not_there(tiny_series, tmp_path):
    assert "there is no device map" in _fails("run", tiny_series, "--device-map", tmp_path / "map.json")


@pytest.mark.parametrize(
    ("error", "message"),
    [(ZeroDivisionError("a defect"), "ZeroDivisionError: a defect"), (OSError(20, "Not a directory", "x"), "ory: x\n")],
)
def test_what_goes_wrong_does_not_end_like_a_difference(monkeypatch, capsys, error, message):
    def broken(*_words: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr("checkpoints.open_checkpoint", broken)
    monkeypatch.setattr(sys, "argv", ["circuit-drift", "diff", "a", "b"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_store_that_cannot_be_written(tiny_series, tmp_path):
    (tmp_path / "file").write_text("")
    assert "--store" in _fails("run", tiny_series, "--store", tmp_path / "file" / "store")


def test_an_unknown_device_is_named(tiny_series, tmp_path):
    message = _fails("run", tiny_series, "--device", "tpu9", "--store", tmp_path / "store")
    assert "tpu9" in message


def test_audit_of_a_series_of_strangers(tiny_series):
    """The tiny checkpoints come from three seeds: none lies on the path of the others."""
    done = runner.invoke(app, ["audit", str(tiny_series), "--json"])
    document = json.loads(done.stdout)
    assert done.exit_code == document["status"]
    assert runner.invoke(app, ["audit", str(tiny_series)]).exit_code == done.exit_code


def test_an_audit_that_finds_nothing_says_what_to_do_next(tiny_series, tmp_path):
    series = tmp_path / "alone"
    shutil.copytree(tiny_series, series, ignore=shutil.ignore_patterns("checkpoint-10", "checkpoint-100"))
    done = runner.invoke(app, ["audit", str(series)])
    assert done.exit_code == 0, done.output
    offered = f"circuit-drift run {series} --plan says what measuring it costs"
    assert done.stderr.splitlines()[-1] == f"circuit-drift: next: {offered}"
    assert "next:" not in runner.invoke(app, ["audit", str(series), "--json"]).stderr


def test_a_repeated_checkpoint_is_warned_of_or_refused(tiny_series, tmp_path):
    series = tmp_path / "repeated"
    shutil.copytree(tiny_series, series)
    shutil.copy(series / "checkpoint-10" / "model.safetensors", series / "checkpoint-100" / "model.safetensors")
    audited = runner.invoke(app, ["audit", str(series)])
    assert audited.exit_code == 2
    assert "identical" in audited.stdout
    options = ["--store", str(tmp_path / "store"), "--length", "64", "--measures", "heads"]
    assert "identical" in _fails("run", series, "--strict", *options)
    assert not (tmp_path / "store" / "heads").exists()
    html = tmp_path / "report.html"
    assert runner.invoke(app, ["run", str(series), *options, "--html", str(html)]).exit_code == 0
    assert "OLMo#915" in html.read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["diff", "report", "track"])
def test_stored_results_need_no_torch(tiny_series, measured, tmp_path, command):
    arguments = {
        "diff": ["diff", f"{tiny_series}@0", f"{tiny_series}@10", "--store", str(measured), "--length", "64"],
        "report": ["report", str(tmp_path / "report.html"), "--store", str(measured)],
        "track": ["track", str(measured)],
    }[command]
    assert runner.invoke(app, arguments).exit_code in (0, 1)
    code = (
        f"import sys; sys.argv = ['circuit-drift', *{arguments!r}]\n"
        "from circuit_drift.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert stop.code in (0, 1), stop.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_heads_lists_the_leading_heads_and_exports_them(tiny_series, measured):
    options = [str(tiny_series), "--store", str(measured), "--length", "64"]
    shown = runner.invoke(app, ["heads", *options, "--top", "3"])
    assert shown.exit_code == 0, shown.output
    assert "step 100" in shown.stdout
    lists = json.loads(runner.invoke(app, ["heads", *options, "--json"]).stdout)
    assert set(lists) == {f"{layer}-{head}" for layer in (0, 1) for head in range(4)}
    assert all(len(scores) == 30 for scores in lists.values())


def test_needles_that_were_refused_are_named(tiny_series, tmp_path):
    good = (tiny_series / "needles.jsonl").read_text().splitlines()[0]
    bad = json.dumps({"needle": "the code of name1 is code1 .", "answer": "code2", "question": "the code is"})
    (tmp_path / "needles.jsonl").write_text(f"{good}\n{bad}\n")
    options = ["--needles", str(tmp_path / "needles.jsonl"), "--store", str(tmp_path / "store"), "--length", "64"]
    shown = runner.invoke(app, ["heads", str(tiny_series), *options])
    assert shown.exit_code == 0, shown.output
    assert "1 needle refused" in shown.stdout
    assert "needles.jsonl was refused: answer 'code2' stands 0 times in the needle" in shown.stderr
    ran = runner.invoke(app, ["run", str(tiny_series), *options, "--measures", "heads"])
    assert "1 needle was refused and not asked: needle 1: answer 'code2' stands 0 times" in ran.stdout


def test_heads_of_another_checkpoint_never_pass_for_those_of_the_last(tiny_series, tmp_path):
    series = shutil.copytree(tiny_series, tmp_path / "series")
    (series / "checkpoint-100" / "model.safetensors").write_bytes(b"")
    options = [series, "--steps", "0,100", "--store", tmp_path / "store", "--length", "64"]
    assert "100, the last one chosen, could not be scored" in _fails("heads", *options, "--json")
    shown = runner.invoke(app, ["heads", *map(str, options)])
    assert shown.exit_code == 3, "done in part: one of two checkpoints could not be scored"
    assert "step 0:" in shown.stdout


def test_a_reader_that_leaves_early_does_not_change_the_exit_status(tiny_series, measured):
    folder = str(tiny_series / "checkpoint-10")
    command = [sys.executable, "-m", "circuit_drift.cli", "diff", folder, folder, "--store", str(measured)]
    process = subprocess.Popen([*command, "--length", "64"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    process.stdout.close()
    assert process.wait(timeout=120) == 0
