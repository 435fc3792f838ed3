"""A series of adapters over one base: the base is read once, and each checkpoint is what it is alone."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from checkpoints import open_checkpoint, open_series
from checkpoints.errors import NotACheckpoint
from tests.checkpoints.conftest import llama_config, save_model, save_tokenizer
from tests.checkpoints.loading.test_adapters import TAKEN, adapted
from tests.checkpoints.loading.test_formats import save_adapter
from tests.checkpoints.loading.test_reuse import assert_as_fresh
from tests.checkpoints.loading.test_stream import IDS, live_tensor_bytes, live_tensors

peft = pytest.importorskip("peft")


@pytest.fixture
def reads(monkeypatch):
    """The folders that transformers builds a model from, in order."""
    found, read = [], AutoModelForCausalLM.from_pretrained

    def counted(folder, *arguments, **options):
        found.append(folder.name)
        return read(folder, *arguments, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", counted)
    return found


@pytest.fixture
def run(tmp_path):
    base = save_tokenizer(save_model(tmp_path / "base"))
    for step in (0, 10, 20):
        save_adapter(tmp_path / "run" / f"checkpoint-{step}", base, seed=step, scale=float(step > 0))
    return tmp_path / "run"


def test_the_base_is_read_once_and_every_step_is_what_it_is_alone(run, reads):
    series = open_series(run)
    alone = [checkpoint.load().model.state_dict() for checkpoint in series]
    reads.clear()
    for loaded, wanted in zip(series.models(reuse=True), alone, strict=True):
        held = loaded.model.state_dict()
        assert all(torch.equal(held[name], wanted[name]) for name in wanted)
    assert reads == ["base"]
    assert not torch.equal(alone[0]["model.layers.0.self_attn.q_proj.weight"],
                           alone[1]["model.layers.0.self_attn.q_proj.weight"])  # fmt: skip


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # of peft while it saves
@pytest.mark.parametrize(
    "kind", ["the embedding", "both of their own", "some tokens", "DoRA", "all layers with biases"]
)
def test_adapters_of_every_reach_leave_the_base_as_it_was(tmp_path, kind):
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, **TAKEN[kind])
    for step in range(3):
        folder, _ = adapted(tmp_path / "run" / f"{step}", config, tied=True)
        shutil.move(folder, tmp_path / "run" / f"checkpoint-{step}")
        tensors = load_file(tmp_path / "run" / f"checkpoint-{step}" / "adapter_model.safetensors")
        shifted = {name: tensor + 0.01 * step for name, tensor in tensors.items()}
        save_file(shifted, tmp_path / "run" / f"checkpoint-{step}" / "adapter_model.safetensors")
        described = tmp_path / "run" / f"checkpoint-{step}" / "adapter_config.json"
        described.write_text(json.dumps(json.loads(described.read_text()) | {"base_model_name_or_path": "0/base"}))
    assert_as_fresh(open_series(tmp_path / "run"))


def test_what_is_done_to_a_live_model_does_not_reach_the_base(run):
    wanted = open_series(run)[-1].load().model.state_dict()
    for loaded in open_series(run).models(reuse=True):
        held = loaded.model.state_dict()
        if loaded.checkpoint.step == 20:
            assert all(torch.equal(held[name], wanted[name]) for name in wanted)
        with torch.no_grad():
            for parameter in loaded.model.parameters():
                parameter.zero_()


def test_a_base_that_is_replaced_between_two_adapters_is_read_again(run, reads):
    models = open_series(run).models(reuse=True)
    next(models)
    save_model(run.parent / "base", seed=5)
    held = next(models).model.state_dict()
    models.close()
    assert reads.count("base") == 2
    wanted = open_series(run)[1].load().model.state_dict()
    assert all(torch.equal(held[name], wanted[name]) for name in wanted)


def test_memory_is_that_of_the_base_the_model_and_one_merge(tmp_path):
    config = llama_config(hidden_size=128, intermediate_size=512, vocab_size=4096)
    base = save_model(tmp_path / "base", config)
    size = (base / "model.safetensors").stat().st_size
    for step in range(4):
        save_adapter(tmp_path / "run" / f"checkpoint-{step}", base, seed=step)
    earlier, held = live_tensors(), []
    for loaded in open_series(tmp_path / "run").models(reuse=True):
        loaded.model(IDS)
        if loaded.checkpoint.step in (1, 3):
            held.append(live_tensor_bytes(earlier))
    assert max(held) < 2.3 * size
    assert held[1] - held[0] < 0.1 * size


def test_a_base_is_looked_for_beside_the_series_before_the_folder_one_happens_to_be_in(run, tmp_path, monkeypatch):
    for folder in run.iterdir():
        described = folder / "adapter_config.json"
        config = json.loads(described.read_text()) | {"base_model_name_or_path": "../base"}
        described.write_text(json.dumps(config))
    other = tmp_path / "elsewhere"
    save_model(other / "base", seed=9)
    (other / "here").mkdir()
    monkeypatch.chdir(other / "here")
    assert open_checkpoint(run / "checkpoint-10").base.resolve() == (tmp_path / "base").resolve()


def test_an_adapter_on_an_adapter_is_refused_by_name(run):
    described = run / "checkpoint-20" / "adapter_config.json"
    config = json.loads(described.read_text()) | {"base_model_name_or_path": "checkpoint-10"}
    described.write_text(json.dumps(config))
    with pytest.raises(NotACheckpoint, match="is an adapter itself: merge it first"):
        open_checkpoint(run / "checkpoint-20").load()
