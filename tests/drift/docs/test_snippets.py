"""Whatever README and docs show to be copied: Python runs, command lines parse or run, tables of settings are read."""

import json
import re
import shutil
import tomllib

import pytest
import typer
from typer.testing import CliRunner

from circuit_drift.benchmark import load_recipe
from circuit_drift.cli import app
from circuit_drift.training.strategies import load_config
from circuits.facts import load_facts
from heads.prompts.needles import load_needles
from tests.drift.docs.fences import BLOCKS, PAGES, ROOT, command_lines

STEPS = (1000, 9000, 9600)
LANGUAGES = {"sh", "python", "json", "toml", "csv", "text", "mermaid"}
PLACES = {"SERIES": "demo", "A": "demo@1000", "B": "demo@9000", "STORE": "store"}
RUN = ("diff", "heads", "report", "export", "show", "architectures", "schema", "store")
"""Commands that are run, on a stand-in for the shipped series; the others' lines are parsed alone."""
ELSEWHERE = ("checkpoints/", "/shared/", "EleutherAI/", "factbook@")
GROUP = typer.main.get_command(app)
LINES = [(block, words) for block in BLOCKS if block.language == "sh" for words in command_lines(block)]
OWN = [(block, words) for block, words in LINES if words[0] == "circuit-drift"]


def of(language):
    return [block for block in BLOCKS if block.language == language]


@pytest.fixture(scope="module")
def stand_in(tiny_series, tmp_path_factory):
    """Three tiny checkpoints under the steps that the docs name, their known facts, and a place to work in."""
    root = tmp_path_factory.mktemp("docs")
    for step, source in zip(STEPS, sorted(tiny_series.glob("checkpoint-*")), strict=True):
        made = shutil.copytree(source, root / "demo" / f"checkpoint-{step}")
        config = json.loads((made / "config.json").read_text())
        (made / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 512}))
    facts = [json.loads(line) for line in (tiny_series / "facts.jsonl").read_text().splitlines()]
    lines = [json.dumps(fact | {"labels": {"class": "known"}}) + "\n" for fact in facts[:6]]
    (root / "demo" / "facts.jsonl").write_text("".join(lines))
    needles = (tiny_series / "needles.jsonl").read_text().splitlines(keepends=True)
    (root / "demo" / "needles.jsonl").write_text("".join(needles[:1]))
    (root / "demo" / "haystack.txt").write_text((tiny_series / "haystack.txt").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CIRCUIT_DRIFT_DEMO", str(root / "demo"))
        patch.setenv("CIRCUIT_DRIFT_STORE", str(root / "store"))
        patch.chdir(root)
        import circuit_drift

        circuit_drift.run("demo", progress=False, device="cpu")
        yield root


def test_every_block_says_what_it_is():
    assert {str(block): block.language for block in BLOCKS if block.language not in LANGUAGES} == {}
    assert len(of("python")) >= 4
    assert len(OWN) >= 20


def pages_with_python():
    return sorted({block.page for block in of("python")})


@pytest.mark.parametrize("page", pages_with_python())
@pytest.mark.filterwarnings("ignore")
def test_the_python_of_a_page_runs_from_top_to_bottom(page, stand_in):
    names = {"__name__": "__docs__"}
    for block in of("python"):
        if block.page == page:
            exec(compile("\n" * block.line + block.text, str(ROOT / page), "exec"), names)


@pytest.mark.parametrize(("block", "words"), OWN, ids=[" ".join(words[1:]) for _, words in OWN])
def test_a_line_of_the_command_line_parses(block, words):
    name, *rest = words[1:]
    if name.startswith("--"):
        assert name in {option for each in GROUP.params for option in each.opts}, block
        return
    command = GROUP.get_command(typer.Context(GROUP), name)
    assert command is not None, f"{block}: no command {name}"
    command.make_context(name, rest)  # raises for an unknown option or a missing argument


def test_lines_that_cost_little_do_what_they_say(stand_in):
    import circuit_drift

    circuit_drift.run("demo", progress=False, device="cpu")  # the newest run again, whatever the pages made
    ran = set()
    for block, (_, name, *rest) in OWN:
        words = (name, *(PLACES.get(word, word) for word in rest))
        elsewhere = "--explain" in words or any(place in word for word in words for place in ELSEWHERE)
        if name not in RUN or words in ran or elsewhere:
            continue
        ran.add(words)
        done = CliRunner().invoke(app, words, env={"COLUMNS": "80"})
        assert done.exit_code in (0, 1), (str(block), words, done.output[-600:])
        assert done.output, words
    assert {name for name, *_ in ran} >= {"diff", "show", "report", "export"}


def test_other_lines_of_shells_name_what_there_is():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for block, words in LINES:
        known = words[0] == "circuit-drift" or (words[0] == "make" and words[1] in targets)
        extras = re.findall(r"\[([\w,-]+)\]", " ".join(words))
        if words[:2] == ["pip", "install"]:
            assert {each for found in extras for each in found.split(",")} <= set(project["optional-dependencies"])
            known = True
        if words[0] == "python":
            known = words[1] == "-m" or (ROOT / words[1]).is_file()
        assert known or words[0] in {"cd", "git", "source", "export", "sbatch"}, (str(block), words)


@pytest.mark.parametrize("block", of("json"), ids=str)
def test_lines_of_prompts_are_read(block, tmp_path):
    for number, line in enumerate(block.text.splitlines()):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(line + "\n")
        record = json.loads(line)
        read = load_needles if "needle" in record else load_facts
        assert len(read(path)) == 1, record


@pytest.mark.parametrize("block", of("toml"), ids=str)
def test_tables_of_settings_are_read(block, tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text(block.text)
    if "fact" in tomllib.loads(block.text):
        assert load_recipe(path).facts
        return
    for name in re.findall(r'"([\w.]+\.jsonl)"', block.text):
        (tmp_path / name).write_text("")
    assert load_config(path).strategies


def test_links_lead_to_files_that_are_there():
    broken = {}
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                broken[f"{page.relative_to(ROOT)}: {target}"] = True
    assert broken == {}
