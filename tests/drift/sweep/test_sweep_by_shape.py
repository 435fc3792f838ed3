"""Memory by shapes alone, held to what real passes hold."""

import shutil
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, PretrainedConfig, Qwen3MoeConfig

import circuits
from checkpoints import open_series
from checkpoints.placement import Placement
from checkpoints.results.text import in_bytes
from circuit_drift.measures.registry import build_measures
from circuit_drift.prompts import prompts_for
from circuit_drift.sweep import passes as shapes
from circuit_drift.sweep import sweep as sweeps
from circuit_drift.sweep.by_shape import Workload, memory_by_shape, shape_memory, without_weights
from circuit_drift.sweep.passes import Held
from circuit_drift.sweep.sweep import plan_series
from circuits.facts.facts import FactSet
from tests.checkpoints.conftest import edit_config
from tests.drift.sweep.test_sweep_kill import prompts_of

LLAMA = LlamaConfig(
    vocab_size=64, hidden_size=128, intermediate_size=352, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2,
)  # fmt: skip
NEOX = GPTNeoXConfig(
    vocab_size=64, hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4
)  # fmt: skip
EXPERTS = Qwen3MoeConfig(
    vocab_size=64, hidden_size=64, moe_intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, num_experts=8, num_experts_per_tok=2,
)  # fmt: skip
LLAMA_8B = LlamaConfig(
    vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=8,
)  # fmt: skip


def some_facts(count: int, tokens: int) -> FactSet:
    clean = torch.randint(1, 60, (count, tokens), generator=torch.Generator().manual_seed(0))
    corrupt = clean.clone()
    corrupt[:, 1] = 60
    return FactSet.from_ids(clean.tolist(), corrupt.tolist(), [1] * count, [2] * count)


@pytest.mark.parametrize("config", [LLAMA, NEOX, EXPERTS], ids=["llama", "neox", "experts"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["eap", "eap-ig"])
def test_what_edges_take_is_told_to_a_factor_of_two(config: PretrainedConfig, dtype: str, method: str):
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    with Held() as held:
        circuits.attribute(model, some_facts(4, 40), method=method, batch_size=4)
    asked = Workload("circuit", 4, 40, facts=4, at_clean=method == "eap")
    told = shape_memory(without_weights(config, dtype), asked, cpu=True)
    assert told.weights == sum(parameter.numel() * parameter.itemsize for parameter in model.parameters())
    assert 0.5 < (told.beside + told.host) / held.peak < 2


def test_eight_billion_parameters_at_eight_times_64_tokens_fit_80_gb():
    model = without_weights(LLAMA_8B, "bfloat16")
    told = shape_memory(model, Workload("circuit", 8, 64, facts=37), cpu=False)
    assert told.weights == 2 * 8_030_261_248
    assert 17e9 < told.on_device < 40e9
    assert told.host == 37 * (32 * 49 + 1) * (32 * 33 + 1) * 4


def test_tensors_are_counted_while_they_are_held():
    with Held() as held:
        first = torch.zeros(100)
        view = first.view(10, 10)
        assert (held.now, held.peak) == (400, 400)
        del first
        second = view + 1.0
        assert held.now == 800
        del view
        assert held.now == 400 == second.nbytes
    assert held.peak == 800


def test_a_model_that_does_not_fit_is_planned_by_its_shape_and_not_loaded(tiny_series, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(sweeps, "free_memory", lambda placement: 1000)
    asked = {"measures": ["heads", "circuit"], "placement": Placement(device="cpu", dtype="bfloat16")}
    plan = plan_series(open_series(tiny_series), store=tmp_path, **asked)
    assert (plan.memory, plan.total_seconds, plan.loads) == (None, None, 3)
    assert "nothing is measured to know what it takes" in caplog.text
    heads, circuit = plan.shapes
    assert (heads.asked.measure, circuit.asked.measure) == ("heads", "circuit")
    assert heads.weights == circuit.weights and circuit.beside > 0
    first, second, beside = plan.lines()[-5:-2]
    assert (first, second) == (heads.line(), circuit.line())
    ahead = f"{in_bytes(heads.weights)} for the next checkpoint's tensors where 1.5 times that is free"
    assert beside == f"beside that in main memory: some 500 MB of Python and its libraries, and {ahead}"
    alone = replace(plan, checkpoints=1).lines()[-3]
    assert alone == "beside that in main memory: some 500 MB of Python and its libraries"
    assert replace(plan, shapes=()).lines() == (*plan.lines()[:-5], *plan.lines()[-2:])


def test_a_folder_without_weights_is_priced_by_its_config(tiny_series, tmp_path):
    shutil.copytree(tiny_series, tmp_path / "series")
    for weights in (tmp_path / "series").glob("*/*.safetensors"):
        weights.unlink()
    asked = {"measures": ["heads", "circuit"], "placement": Placement(device="cpu", dtype="bfloat16")}
    plan = plan_series(open_series(tmp_path / "series"), store=tmp_path / "store", **asked)
    assert (len(plan.unread), plan.loads, plan.memory) == (3, 0, None)
    assert [shape.asked.measure for shape in plan.shapes] == ["heads", "circuit"]
    values = sum(
        parameter.numel()
        for parameter in without_weights(
            AutoConfig.from_pretrained(tmp_path / "series" / "checkpoint-0"), "bfloat16"
        ).parameters()
    )
    assert plan.shapes[0].weights == 2 * values
    told = "\n".join(plan.lines())
    assert "without 3 checkpoints that cannot be looked at" in told
    assert "memory of a worker at most: not known" in told


def test_of_weights_in_fewer_bits_than_they_compute_in_no_shape_tells(tiny_series, tmp_path):
    shutil.copytree(tiny_series, tmp_path / "series")
    for checkpoint in (tmp_path / "series").glob("checkpoint-*"):
        (checkpoint / "model.safetensors").unlink()
        edit_config(checkpoint, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    for series, dtype in ((tiny_series, "nf4"), (tmp_path / "series", "bfloat16")):
        first = next(iter(open_series(series)))
        measures = build_measures(prompts_for(tiny_series), ["heads", "circuit"], first)
        assert memory_by_shape(first, measures, Placement(device="cpu", dtype=dtype)) == ()


def test_why_memory_cannot_be_told_by_shape_is_said(tiny_series, tmp_path, caplog):
    shutil.copytree(tiny_series, tmp_path / "series")
    for checkpoint in (tmp_path / "series").glob("checkpoint-*"):
        (checkpoint / "model.safetensors").unlink()
        (checkpoint / "config.json").write_text('{"model_type": "llama", "hidden_size": "wide"}')
    plan = plan_series(open_series(tmp_path / "series"), store=tmp_path / "store", measures=["heads"])
    assert plan.shapes == ()
    assert (
        "the memory that checkpoint-0 takes cannot be told by its shape: no model can be made of the config"
        in caplog.text
    )


def test_a_model_that_cannot_be_run_without_weights_is_told_of_and_measured_all_the_same(
    tiny_series, tmp_path, monkeypatch, caplog
):
    def unknown(*_args):
        raise RuntimeError("no such operation on meta")

    monkeypatch.setattr(shapes, "passes", unknown)
    plan = plan_series(tiny_series, store=tmp_path / "store", prompts=prompts_of(tiny_series), measures=["heads"])
    assert (plan.shapes, plan.stored) == ((), {"heads": 1})
    assert "cannot be run without its weights: no such operation on meta" in caplog.text
