"""Explanations from checkpoints on disk: Python, command line, page and JSON."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import circuit_drift
from checkpoints.errors import BadPrompt, DriftError
from circuit_drift.cli.commands import app
from circuit_drift.explanation.behaviours import Behaviour
from circuit_drift.explanation.explain import ways_told
from circuit_drift.explanation.explanation import Effort
from circuit_drift.prompts import prompts_for
from tests.circuits.circuit_families import random_facts
from tests.drift.handmade import WIRING_A, graph, strengths

LITTLE = Effort(prompts=4, steps=3, patching=False)


@pytest.fixture(scope="module")
def edited(tiny_series: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of the tiny series with one head's output zeroed, beside the same prompts."""
    root = tmp_path_factory.mktemp("edited") / "series"
    root.mkdir()
    for file in ("needles.jsonl", "haystack.txt", "facts.jsonl"):
        (root / file).write_text((tiny_series / file).read_text())
    source = tiny_series / "checkpoint-100"
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    for step, zeroed in ((1, False), (2, True)):
        if zeroed:
            with torch.no_grad():
                model.model.layers[1].self_attn.o_proj.weight[:, 8:16] = 0
        folder = root / f"checkpoint-{step}"
        model.save_pretrained(folder)
        for file in source.glob("*token*"):
            (folder / file.name).write_bytes(file.read_bytes())
    return root


@pytest.mark.parametrize(
    ("behaviour", "name", "unit"),
    [
        ("needle", "needle answer NLL", "nats"),
        ("facts", "logit difference of facts", "logits"),
        ("facts:odd", "logit difference of odd facts", "logits"),
        ("log-probability", "log probability of facts", "nats"),
        ("text", "NLL of text", "nats"),
        ("a1.h2", "needle mass of a1.h2", "of its attention"),
    ],
)
def test_every_behaviour_can_be_explained(edited: Path, behaviour: str, name: str, unit: str):
    prompts = prompts_for(edited, length=64)
    found = circuit_drift.explain(f"{edited}@1", f"{edited}@2", behaviour, prompts=prompts, effort=LITTLE)
    assert (found.behaviour, found.unit) == (name, unit)
    assert [found.names[place] for place in found.changed] == ["a1.h1.o"]
    if behaviour == "a1.h2":  # attention of the last layer, in front of the edit
        assert not found.shares.any()
        assert "no component is claimed" in found.verdict
    else:
        assert found.shares.any()
        assert found.residual < 0.05
    assert len(found.before) == (3 if behaviour == "text" else 4)
    assert len(found.needle) == (4 if behaviour in ("needle", "a1.h2") else 0)


@pytest.mark.parametrize(("way", "facts"), [("lost", 11), ("learned", 37)])
def test_facts_are_explained_by_what_became_of_them(way: str, facts: int):
    effort = Effort(prompts=64, steps=2, tolerance=1.0, patching=False)
    found = circuit_drift.explain("demo@9000", "demo@9600", f"facts:{way}", effort=effort)
    assert (found.behaviour, len(found.before)) == (f"logit difference of {way} facts", facts)
    change = float((found.along[-1] - found.along[0]).mean())
    assert change < 0 if way == "lost" else change > 0


def test_facts_of_which_none_moved_so_are_refused_with_the_counts(edited: Path):
    with pytest.raises(BadPrompt, match=r"no fact of 8 is learned; .* 0 learned, 8 neither"):
        circuit_drift.explain(f"{edited}@1", f"{edited}@1", "facts:learned", effort=LITTLE)


def test_what_a_pair_measured_tells_which_facts_were_learned():
    facts = random_facts(4)
    asked = [[fact.clean, fact.answer, fact.wrong] for fact in facts.facts]
    before, after = (
        replace(graph(strengths(WIRING_A), facts=4, known=0), answer_rank=np.array(ranks), meta={"asked": asked})
        for ranks in ([0, 0, 3, 1], [0, 2, 0, 1])
    )
    ways = ways_told((before, after), facts)
    assert ways is not None
    assert {way: np.flatnonzero(chosen).tolist() for way, chosen in ways.items()} == {
        "kept": [0], "lost": [1], "learned": [2], "neither": [3],
    }  # fmt: skip
    assert ways_told((before,), facts) is None
    assert ways_told((before, replace(after, meta={})), facts) is None
    assert ways_told((before, after), random_facts(3)) is None


def test_an_explanation_is_computed_once_for_the_same_question(
    edited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ends, asked = (f"{edited}@1", f"{edited}@2"), {"store": tmp_path, "effort": LITTLE}
    found = circuit_drift.explain(*ends, "facts", **asked)
    line = Mock(side_effect=RuntimeError)
    monkeypatch.setattr("circuit_drift.explanation.explain.opened_line", line)
    assert circuit_drift.explain(*ends, "facts", **asked).to_json() == found.to_json()
    own = Behaviour("m", "", ((3, 4),), ((1,),), lambda _i, logits, _a: logits[0, 0])
    others = [{"effort": Effort(prompts=3)}, {"dtype": "bfloat16"}, {"attention": "eager"}]
    for behaviour, other in (("facts:odd", {}), (own, {}), *(("facts", each) for each in others)):
        with pytest.raises(RuntimeError):
            circuit_drift.explain(*ends, behaviour, **{**asked, **other})
    with pytest.raises(RuntimeError):
        circuit_drift.explain(*reversed(ends), "facts", **asked)


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("weather", "needle, accuracy, facts, log-probability, text, facts:GROUP, a head as a18.h6"),
        ("needle:odd", "only facts have groups"),
        ("facts:blue", "no fact is labelled 'blue'; labels begin with even, odd"),
        ("a9.h0", "2 layers of 4 heads"),
        ("needle", "the model has 256 positions"),
    ],
)
def test_a_behaviour_that_cannot_be_asked_is_refused_with_what_can(edited: Path, behaviour: str, reason: str):
    with pytest.raises(BadPrompt, match=reason):
        circuit_drift.explain(f"{edited}@1", f"{edited}@2", behaviour, effort=LITTLE)


def test_less_than_float32_is_refused(edited: Path):
    with pytest.raises(DriftError, match="dtype float32"):
        circuit_drift.explain(f"{edited}@1", f"{edited}@2", dtype="bfloat16")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # of peft while it saves
def test_an_adapter_is_explained_as_the_components_that_it_changes(edited: Path, tmp_path: Path):
    import peft

    base = edited / "checkpoint-1"
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], layers_to_transform=[1],
                             init_lora_weights=False)  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    prompts = prompts_for(edited, length=64)
    found = circuit_drift.explain(base, tmp_path / "adapter", "facts", prompts=prompts, effort=LITTLE)
    assert [found.names[place] for place in found.changed] == [f"a1.h{head}.q" for head in range(4)]
    assert found.residual < 0.05


def test_diff_explains_at_the_terminal_in_json_and_on_its_page(edited: Path, tmp_path: Path):
    page = tmp_path / "pair.html"
    asked = ["diff", f"{edited}@1", f"{edited}@2", "--measures", "heads", "--length", "64"]
    asked += ["--store", str(tmp_path / "store"), "--html", str(page)]
    told = CliRunner().invoke(app, [*asked, "--explain"])
    assert told.exit_code in (0, 1), told.output
    assert "needle answer NLL" in told.output
    assert "Why needle answer NLL differs" in page.read_text()
    document = json.loads(
        CliRunner().invoke(app, [*asked, "--explain", "facts,text", "--outputs", "1", "--json"]).stdout
    )
    assert [each["behaviour"] for each in document["explanations"]] == ["logit difference of facts", "NLL of text"]
    assert document["explanations"][0]["patching"][0]["restored"] == pytest.approx(100)
    first = document["explanations"][0]["outputs"][0]
    assert (first["output"], first["positions"]) == ("a1.h1", "all positions")
    assert first["restored"] == pytest.approx(100, abs=0.01)
    fewer = json.loads(CliRunner().invoke(app, [*asked, "--explain", "facts", "--prompts", "3", "--json"]).stdout)
    assert "over 3 prompts" in fewer["explanations"][0]["verdict"][0]
    assert json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)["explanations"] == []


def test_a_diff_whose_change_cannot_be_explained_is_shown_with_the_reason(edited: Path, tmp_path: Path):
    untied = tmp_path / "untied"
    shutil.copytree(edited / "checkpoint-2", untied)
    model = AutoModelForCausalLM.from_pretrained(untied, dtype=torch.float32)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.config.tie_word_embeddings = False
    model.save_pretrained(untied)
    page = tmp_path / "pair.html"
    asked = [
        "diff",
        f"{edited}@1",
        str(untied),
        "--measures",
        "heads",
        "--length",
        "64",
        "--store",
        str(tmp_path / "s"),
    ]
    told = CliRunner().invoke(app, [*asked, "--explain", "needle", "--json", "--html", str(page)])
    document = json.loads(told.stdout)
    reason = document["not_compared"]["the explanation of needle"]
    assert "only one of them has lm_head.weight; one ties its embedding and unembedding, the other has two" in reason
    assert document["explanations"] == []
    assert f"the explanation of needle is not compared: {reason}" in page.read_text()
    assert (told.exit_code, document["significant"]) in {(1, True), (3, False)}


def test_a_diff_is_shown_where_there_is_nothing_to_explain_of_what_was_asked(edited: Path, tmp_path: Path):
    asked = ["diff", f"{edited}@1", f"{edited}@2", "--measures", "heads", "--length", "64", "--json"]
    asked += ["--store", str(tmp_path / "store"), "--explain", "facts:nobody,a9.h9,facts:nobody"]
    told = CliRunner().invoke(app, asked)
    document = json.loads(told.stdout)
    assert "no fact is labelled 'nobody'" in document["not_compared"]["the explanation of facts:nobody"]
    assert "there is no head a9.h9" in document["not_compared"]["the explanation of a9.h9"]
    assert (told.exit_code, document["significant"]) in {(1, True), (3, False)}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--explain", "text,weather"], "a head as a18.h6"),
        (["--explain", "text:odd"], "only facts have groups"),
        (["--explain", "text", "--dtype", "bfloat16"], "--explain needs float32"),
        (["--outputs", "a1.h1"], "give --explain with it"),
        (["--explain", ","], "--explain ',' names no behaviour"),
    ],
)
def test_what_cannot_be_explained_at_all_is_refused_before_anything_is_measured(
    edited: Path, tmp_path: Path, options: list[str], reason: str
):
    told = CliRunner().invoke(app, ["diff", f"{edited}@1", f"{edited}@2", "--store", str(tmp_path / "s"), *options])
    assert told.exit_code == 2
    assert reason in " ".join((told.output, str(told.exception)))
    assert not (tmp_path / "s").exists()


def test_a_pair_explains_itself_where_its_checkpoints_are_known(edited: Path, tmp_path: Path):
    asked = {"store": tmp_path, "measures": ["heads"], "prompts": prompts_for(edited, length=64), "progress": False}
    pair = circuit_drift.diff(f"{edited}@1", f"{edited}@2", **asked)
    found = pair.explain("facts", effort=LITTLE)
    assert found.names[found.order[0]] == "a1.h1.o"
    assert "logit difference of facts" in pair.explained("facts", effort=LITTLE)._repr_html_()
    run = circuit_drift.run(edited, **asked)
    with pytest.raises(BadPrompt, match=r"circuit_drift\.explain"):
        run.diff(1, 2).explain()


def test_every_diff_shows_how_much_the_weights_changed(edited: Path, tmp_path: Path):
    page = tmp_path / "pair.html"
    asked = ["diff", f"{edited}@1", f"{edited}@2", "--measures", "heads", "--length", "64"]
    asked += ["--store", str(tmp_path / "store")]
    told = CliRunner().invoke(app, [*asked, "--all", "--html", str(page)])
    moved = "no QK map changed; largest OV map a1.h1 (1); no other component."
    assert f"Weights, relative change from 1 to 2: {moved}" in told.output
    assert "a0.h0" not in told.output.partition("Weights, largest relative changes")[2].partition("Put back")[0]
    assert "How much each head" in page.read_text()
    weights = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)["weights"]
    assert weights[0] == {"component": "a1.h1", "kind": "OV", "layer": 1, "relative": 1.0, "cosine": None}
