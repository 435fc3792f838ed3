"""The help: commands under headings, an example of each that parses, and what a shell offers after a tab."""

import os
import re
import shlex
import subprocess
import sys
from typing import get_args

import pytest
import typer
from typer.testing import CliRunner

from circuit_drift.cli import app, completion
from circuit_drift.cli.help import EXAMPLES, GROUPS, OTHER, by_heading
from circuit_drift.store.store import Store
from circuit_drift.sweep.executors import EXECUTORS
from circuits.attribution.backward import Preset
from circuits.attribution.methods import Method, Rule
from circuits.facts.metrics import NAMES as METRICS

GROUP = typer.main.get_command(app)
VISIBLE = sorted(name for name, command in GROUP.commands.items() if not command.hidden)


def shown(*words, width="80"):
    return CliRunner().invoke(app, words, env={"COLUMNS": width, "TERM": "dumb"}).output


def test_every_command_has_its_heading_and_an_example():
    assert sorted(name for names in GROUPS.values() for name in names) == VISIBLE
    assert sorted(EXAMPLES) == VISIBLE
    assert OTHER not in by_heading(tuple(VISIBLE))
    assert by_heading(("diff", "of-a-plugin", "run")) == {
        "Measure a series": ("run",),
        "Compare and follow": ("diff",),
        OTHER: ("of-a-plugin",),
    }


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_an_example_is_a_command_line_that_parses(line):
    program, name, *words = shlex.split(line.split(" > ")[0])
    assert program == "circuit-drift"
    command = GROUP.get_command(typer.Context(GROUP), name)
    context = command.make_context(name, words)  # raises for an unknown option or a missing argument
    assert context.params
    assert line in shown(name, "-h", width="200")


@pytest.mark.parametrize(
    ("option", "choices"),
    [
        ("--method", get_args(Method)),
        ("--rule", get_args(Rule)),
        ("--backward", get_args(Preset)),
        ("--executor", EXECUTORS),
        ("--metric", [name for name in METRICS if name not in ("rank", "hit@k")]),
    ],
)
def test_the_help_of_an_option_names_every_choice(option, choices):
    (told,) = (each.help for each in GROUP.commands["run"].params if option in each.opts)
    assert [choice for choice in choices if not re.search(rf"(?<![\w-]){choice}(?![\w-])", told)] == []


def test_headings_stand_over_whole_phrases_in_eighty_columns():
    text = shown("-h")
    assert text == shown("--help")
    assert "..." not in text.split("Measure a series:")[1]
    assert max(map(len, text.splitlines())) <= 80
    assert "Compare and follow:\n  diff           Compare two checkpoints\n" in text


def test_a_tab_completes_series_steps_runs_and_measures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / ".hidden").mkdir()
    assert completion.series("") == ["demo", "natural", "factbook", "own/"]
    assert completion.series("demo@90") == ["demo@9000", "demo@9020", "demo@9080"]
    assert completion.series("nothing@1") == []
    store = Store.open(tmp_path / "store")
    store.write_run("first", {})
    store.write_run("second", {})
    context = typer.Context(GROUP.commands["track"])
    context.params = {"folder": tmp_path / "store"}
    assert completion.runs(context, "s") == ["second"]
    context.params = {"folder": tmp_path / "none"}
    assert completion.runs(context, "") == []
    assert completion.measures("heads,circ") == ["heads,circuit"]
    store.write_run("third", {"points": [{"step": 0}, {"step": 90}, {"step": 9000}, {"step": None}]})
    context = typer.Context(GROUP.commands["export"])
    context.params = {"store": tmp_path / "store", "name": "third"}
    assert completion.stored_steps(context, "9") == ["90", "9000"]
    assert completion.stored_steps(context, "l") == ["last"]
    context.params["name"] = "none"
    assert completion.stored_steps(context, "") == []
    assert completion.schemas("ru") == ["run", "run-table"]


def test_words_that_bash_breaks_are_joined_again():
    assert completion.joined(["cd", "diff", "demo", "@", "93"], 4) == (["cd", "diff", "demo@93"], 2)
    assert completion.joined(["cd", "diff", "demo", "@"], 3) == (["cd", "diff", "demo@"], 2)
    assert completion.joined(["cd", "diff", "demo", "@", "0", ""], 5) == (["cd", "diff", "demo@0", ""], 3)
    assert completion.joined(["cd", "diff", "demo@93"], 2) == (["cd", "diff", "demo@93"], 2)
    assert completion.joined(["cd", "diff"], 2) == (["cd", "diff"], 2)


@pytest.mark.parametrize(
    ("words", "at", "offered"),
    [
        ("circuit-drift\ndiff\ndemo\n@\n93", "4", ["9300", "9320", "9380"]),
        ("circuit-drift\ndiff\ndemo@93", "2", ["demo@9300", "demo@9320", "demo@9380"]),
    ],
)
def test_a_shell_gets_what_it_asks_for(words, at, offered):
    asked = {"_CIRCUIT_DRIFT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": at}
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv[0] = 'circuit-drift'; from circuit_drift.cli import main; main()"],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == offered
