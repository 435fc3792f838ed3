"""Exit statuses hold, in one line, whatever is closed, full, interrupted or failed in part."""

import logging
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from typer.testing import CliRunner

import circuit_drift
from checkpoints.results.artifacts import RESULT_FILE
from circuit_drift.cli import app
from circuit_drift.cli.commands import _Once
from circuit_drift.cli.status import one_line
from circuit_drift.store.store import Store
from tests.drift.handmade import keep, retrieval, write_series


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_series(tmp_path_factory.mktemp("statuses") / "lines", (0, 10, 20))


@pytest.fixture(scope="module")
def kept(series: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Steps 0 and 10 are alike, 20 is not; the run holds all three."""
    store = tmp_path_factory.mktemp("statuses") / "store"
    low, high = {(0, 1): 0.0625}, {(0, 1): 0.75, (1, 0): 0.5}
    scores = {step: retrieval(low, nll=math.log(8), name=f"checkpoint-{step}") for step in (0, 10)}
    keep(series, store, heads={**scores, 20: retrieval(high, accepted=9, nll=math.log(8), name="checkpoint-20")})
    circuit_drift.run(series, store=store, measures=["heads"], progress=False)
    return store


def diff_of(series: Path, store: Path, b: int) -> list[str]:
    return ["diff", f"{series}@0", f"{series}@{b}", "--store", str(store), "--measures", "heads", "--json"]


def shell(redirection: str, *words: str) -> tuple[int, str]:
    """The status of the command line with its streams as a shell leaves them, and what standard error got."""
    command = f'"$@" {redirection}; echo "status $?" >&2'
    program = [sys.executable, "-m", "circuit_drift.cli", *words]
    done = subprocess.run(["bash", "-c", command, "bash", *program], capture_output=True, text=True, check=False)
    *lines, status = done.stderr.splitlines()
    return int(status.removeprefix("status ")), "\n".join(lines)


@pytest.mark.parametrize(
    ("redirection", "equal", "told"),
    [
        ("> /dev/null", 0, ""),
        ("2>&-", 0, ""),
        ("2> /dev/full", 0, ""),
        ("0<&-", 0, ""),
        ("> /dev/full", 2, "circuit-drift: the output cannot be written: No space left on device"),
        (">&-", 2, "circuit-drift: standard output is closed, so there is nowhere to print to"),
        (">&- 2>&-", 2, ""),
        ("> >(true)", None, None),
    ],
)
def test_a_diff_of_equals_never_says_that_they_differ(series, kept, redirection, equal, told):
    words = diff_of(series, kept, 10)
    if equal is None:  # a reader that is gone before anything is written
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            [sys.executable, "-m", "circuit_drift.cli", *words],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        os.close(writer)
        status, lines = done.returncode, done.stderr.strip()
        equal, told = 2, "circuit-drift: the output cannot be written: Broken pipe"
    else:
        status, lines = shell(redirection, *words)
    assert (status, lines) == (equal, told)


def test_a_diff_that_differs_says_so_unless_its_output_is_lost(series, kept):
    assert shell("> /dev/null", *diff_of(series, kept, 20)) == (1, "")
    assert shell("> /dev/full", *diff_of(series, kept, 20))[0] == 2


@pytest.mark.parametrize("words", [("--help",), ("diff", "--help")])
def test_what_is_only_shown_fails_alike_where_it_cannot_be(words):
    assert shell("> /dev/full", *words) == (2, "circuit-drift: the output cannot be written: No space left on device")


INTERRUPTED_IMPORT = textwrap.dedent(
    """
    import os, signal, sys
    from circuit_drift.cli import main

    seen, after = [0], int(sys.argv.pop(1))

    def hook(event, _):
        if event == "import":
            seen[0] += 1
            if seen[0] == after:
                os.kill(os.getpid(), signal.SIGINT)

    sys.addaudithook(hook)
    main()
    """
)


@pytest.mark.parametrize("after", [1, 90, 250, 450])
def test_an_interrupt_in_the_midst_of_imports_is_one_line(series, kept, after):
    words = [sys.executable, "-c", INTERRUPTED_IMPORT, str(after), *diff_of(series, kept, 10)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr == (
        "circuit-drift: interrupted; what was computed is stored, and the same command goes on from there\n"
    )


def test_an_interrupt_that_a_destructor_swallows_is_not_lost(tmp_path):
    code = textwrap.dedent(
        """
        import os, signal, time
        from circuit_drift.cli.status import end

        class Swallows:
            def __del__(self):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)

        def command():
            thing = Swallows()
            del thing
            time.sleep(60)

        end(command)
        """
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 130
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("raised", "status", "told"),
    [
        ("MemoryError", 2, "circuit-drift: there is not enough memory"),
        ("OSError(28, 'No space left on device', 'x.html')", 2, "circuit-drift: No space left on device: x.html"),
        ("ConnectionResetError(104, 'Connection reset by peer')", 2, "circuit-drift: Connection reset by peer"),
        ("SystemExit", 0, ""),
        ("SystemExit(3)", 3, ""),
        ("ZeroDivisionError('a defect')", 2, "Traceback (most recent call last):"),
    ],
)
def test_whatever_ends_a_command_has_its_status(raised, status, told):
    code = f"from circuit_drift.cli.status import end\ndef command(): raise {raised}\nend(command)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert (done.stderr.splitlines() or [""])[0].startswith(told)


def invoke(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_what_is_done_in_part_has_a_status_of_its_own(tmp_path):
    series = write_series(tmp_path / "lines", (0, 10))
    keep(series, tmp_path / "store", heads={step: retrieval(name=f"checkpoint-{step}") for step in (0, 10)})
    options = ["--store", tmp_path / "store"]
    assert invoke("run", series, *options, "--measures", "heads").exit_code == 0
    some = invoke("run", series, *options, "--measures", "heads,roles", "--run", "other")
    assert some.exit_code == 3, some.output
    assert some.stderr.splitlines()[-1] == (
        "circuit-drift: the run other is incomplete, so the exit status is 3: checkpoint-0, checkpoint-10; "
        "the reasons are above"
    )
    pair = invoke("diff", f"{series}@0", f"{series}@10", *options, "--measures", "heads,circuit")
    assert pair.exit_code == 3, "nothing that could be measured differs, but not everything could be"
    (series / "checkpoint-10" / "model.safetensors").write_bytes(b"")
    assert invoke("heads", series, "--steps", "0,10", *options).exit_code == 3
    assert invoke("run", series, "--steps", "10", *options, "--measures", "heads").exit_code == 2, "nothing was done"


@pytest.mark.parametrize("command", [("report", "out.html"), ("track",)])
def test_a_stored_run_with_a_damaged_result_is_shown_in_part(series, kept, tmp_path, command, monkeypatch):
    import shutil

    monkeypatch.chdir(tmp_path)
    copy = shutil.copytree(kept, tmp_path / "store")
    assert invoke(*command, "--store", copy).exit_code == 0
    key = circuit_drift.load_run(copy).at(10).keys["heads"]
    (Store(copy).folder("heads", key) / RESULT_FILE).write_text("{")
    shown = invoke(*command, "--store", copy)
    assert shown.exit_code == 3, shown.output
    assert shown.stderr.splitlines()[-1].startswith("circuit-drift: the r")
    assert "heads of 10" in shown.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("diff", "a@1", "a@2", "--measures", "heads", "--measures", "circuit"), "--measures"),
        (("diff", "a@1", "a@2", "--explain", "--explain=needle"), "--explain"),
        (("run", "a", "--steps", "1", "--html", "x.html", "--steps", "2"), "--steps"),
    ],
)
def test_an_option_of_one_value_that_is_given_again_is_refused_not_dropped(words, option):
    shown = invoke(*words)
    assert shown.exit_code == 2
    assert shown.stderr.splitlines()[-1] == (
        f"Error: {option} holds one value and is given again: give it once; several names, where it takes them, are "
        "joined by commas"
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("run", "demo", "--ig-steps", "0"), ("--ig-steps", "'0'", "1", "run -h")),
        (("run", "demo", "--ig-steps", "many"), ("--ig-steps", "'many'", "integer", "run -h")),
        (("run", "demo", "--length", "3"), ("--length", "'3'", "16", "run -h")),
        (("run", "demo", "--max-hours", "nan"), ("--max-hours", "'nan'", "0", "run -h")),
        (("run", "demo", "--depths", "2"), ("--depths", "'2'", "1", "as 0,0.5,1")),
        (("run", "demo", "--max-disk", "-5GB"), ("'-5GB'", "as in 50GB")),
        (("run", "demo", "--executor", "x", "--plan"), ("executor 'x'", "serial, processes, ray, slurm")),
        (("diff", "a", "b", "--q", "2"), ("--q", "'2'", "1", "diff -h")),
        (("diff", "a", "b", "--explain", "--outputs", "-3"), ("'-3'", "output", "a1.h0")),
        (("export", "9", "x.json", "--edges", "0"), ("--edges", "'0'", "1", "export -h")),
    ],
)
def test_a_value_that_an_option_cannot_have_is_refused_in_one_line(words, told):
    shown = invoke(*words)
    assert shown.exit_code == 2
    assert shown.stderr.startswith("circuit-drift: ")
    assert shown.stderr.count("\n") == 1
    assert [part for part in told if part not in shown.stderr] == []


@pytest.mark.parametrize("words", [("--json", "--json"), ("--floor", "a@3", "--floor", "a@4"), ("--explain",)])
def test_flags_and_options_of_several_values_may_be_given_again(words):
    shown = invoke("diff", "nowhere/a@1", "nowhere/a@2", *words)
    assert shown.stderr.startswith("circuit-drift: ")
    assert "nowhere/a" in shown.stderr


def test_a_message_is_one_line_that_moves_no_cursor():
    assert one_line("a\nb\r\n  c\x1b[31m\u202ed\u2028e") == "a b c\\x1b[31m\\u202ed e"


def test_a_notice_that_holds_for_every_checkpoint_is_told_once_and_progress_always():
    once = _Once()
    records = [logging.LogRecord("x", level, "", 0, "%d of %d", (1, 2), None) for level in (30, 30, 20, 20)]
    assert [once.filter(record) for record in records] == [True, False, True, True]
