"""A user's own questions tuned on and asked, and the fine-tune named at a terminal."""

import json
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

import circuit_drift
from checkpoints import DriftError
from checkpoints.errors import BadPrompt
from circuit_drift.behaviour.sft import SftMeasure
from circuit_drift.behaviour.tuning import Tuning, tuning_of
from circuit_drift.measures.registry import build_measures
from circuit_drift.prompts import prompts_for


def questions_file(folder, name, numbers):
    path = folder / name
    rows = [{"prompt": f"name{i} was born in", "answer": f"place{i}"} for i in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_own_questions_are_tuned_on_and_asked(tiny_series, store, tmp_path):
    train, test = questions_file(tmp_path, "train.jsonl", range(8)), questions_file(tmp_path, "test.jsonl", range(4))
    asked = [f"sft:train={train}", f"sft:test={test}", "sft:steps=2", "sft:lora=2"]
    with pytest.raises(BadPrompt, match="every question to tune on is one that is asked afterwards"):
        (measure,) = build_measures(prompts_for(tiny_series), [*asked[1:], f"sft:train={test}"])
        tokens = AutoTokenizer.from_pretrained(tiny_series / "checkpoint-0")
        measure.compute(SimpleNamespace(model=None, tokenizer=tokens), {})
    run = circuit_drift.run(tiny_series, measures=asked, store=store, device="cpu", progress=False)
    for point in run:
        found = point.results["sft"]
        assert {score.task for score in found.scores} == {"own"}
        assert found.meta["training_prompts"] == 4
        assert set(found.columns) == {"sft_own"}
    told = run.points[0].results["sft"].meta["provenance"]["parameters"]
    assert told["tuning"]["lora"] == 2
    assert len(told["train"]) == len(told["test"]) == 64


def test_the_fine_tune_is_named_at_a_terminal(tiny_series):
    prompts = prompts_for(tiny_series, length=96)
    (measure,) = build_measures(prompts, ["sft:ruler_qa", "sft:lora=8", "sft:steps=200", "sft:lr=2e-5"])
    assert (measure.tasks, measure.length) == (("ruler_qa",), 96)
    assert measure.tuning == Tuning(steps=200, lr=2e-5, lora=8)
    usual = SftMeasure(("ruler_qa",)).params()
    assert "lora" not in usual["tuning"] and not {"train", "test"} & usual.keys()
    for wrong in ({"rank": "8"}, {"lora": "much"}):
        with pytest.raises(DriftError, match="sft takes tasks, train=FILE, test=FILE and numbers for steps, batch"):
            tuning_of(wrong)
    with pytest.raises(BadPrompt, match="a rank >= 0"):
        tuning_of({"lora": "-1"})
