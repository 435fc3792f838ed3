"""A merged adapter computes what the adapter on its base does, or it is refused in one line."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

import checkpoints
from checkpoints.errors import CorruptWeights, UnsupportedArchitecture
from checkpoints.loading import build
from tests import packed_weights
from tests.checkpoints.conftest import llama_config, save_model
from tests.checkpoints.loading.test_stream import IDS

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # of peft while it saves

BOTH = ["embed_tokens", "lm_head"]
CAUSAL = {"task_type": "CAUSAL_LM"}
TAKEN = {
    "attention": {"target_modules": ["q_proj", "v_proj"]},
    "the head": {"target_modules": ["q_proj", "lm_head"]},
    "the embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "head and embedding": {"target_modules": ["q_proj", *BOTH]},
    "a head of its own": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "an embedding of its own": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "both of their own": {"target_modules": ["q_proj"], "modules_to_save": BOTH},
    "some tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [3, 5]},
    "DoRA": {"target_modules": ["q_proj"], "use_dora": True},
    "all layers with biases": {"target_modules": "all-linear", "use_rslora": True, "bias": "all"},
}
REFUSED = {
    "learnt prompts": (lambda: peft.PromptTuningConfig(**CAUSAL, num_virtual_tokens=4), "cannot be merged"),
    "prefixes": (lambda: peft.PrefixTuningConfig(**CAUSAL, num_virtual_tokens=4), "cannot be merged"),
    "adaption prompts": (
        lambda: peft.AdaptionPromptConfig(**CAUSAL, adapter_len=4, adapter_layers=1),
        "cannot be merged",
    ),
    "one that begins at a token": (
        lambda: peft.LoraConfig(**CAUSAL, target_modules=["q_proj"], alora_invocation_tokens=[7]),
        "cannot be merged",
    ),
    "repeated layers": (
        lambda: peft.LoraConfig(**CAUSAL, target_modules=["q_proj"], layer_replication=[[0, 2], [1, 2]]),
        "layer_replication",
    ),
}


def adapted(root, config, *, tied):
    """An adapter's folder with random weights, and the logits of the adapter on its base, unmerged."""
    base = save_model(root / "base", llama_config(tie_word_embeddings=tied))
    torch.manual_seed(1)
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
        logits = model(IDS).logits
    folder = root / "checkpoint-1"
    model.save_pretrained(folder)
    place = folder / "adapter_config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"base_model_name_or_path": str(base)}))
    return folder, logits


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("given", TAKEN.values(), ids=TAKEN)
def test_a_merged_adapter_is_the_adapter_on_its_base(tmp_path, given, tied):
    folder, unmerged = adapted(tmp_path, peft.LoraConfig(**CAUSAL, **given), tied=tied)
    merged = checkpoints.open_checkpoint(folder).load().model(IDS).logits
    torch.testing.assert_close(merged, unmerged, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("config", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_merged_is_refused(tmp_path, config, reason):
    folder, _ = adapted(tmp_path, config(), tied=False)
    with pytest.raises(CorruptWeights, match=reason):
        checkpoints.open_checkpoint(folder).load()


def test_no_adapter_is_merged_into_quantised_weights(tmp_path, monkeypatch):
    folder, _ = adapted(tmp_path, peft.LoraConfig(**CAUSAL, target_modules=["q_proj"]), tied=False)
    plain = build.build_model
    monkeypatch.setattr(build, "build_model", lambda *given: packed_weights.pack(plain(*given)))
    with pytest.raises(UnsupportedArchitecture, match=r"merging an adapter into its base .*base changes weights"):
        checkpoints.open_checkpoint(folder).load()


def test_an_adapter_whose_tied_tensors_differ_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder, _ = adapted(tmp_path, peft.LoraConfig(**CAUSAL, target_modules=["q_proj", *BOTH]), tied=True)
    tensors = load_file(folder / "adapter_model.safetensors")
    head = next(name for name in tensors if "lm_head.base_layer" in name)
    save_file({**tensors, head: tensors[head] + 1}, folder / "adapter_model.safetensors")
    with pytest.raises(CorruptWeights, match="ties that tensor to another"):
        checkpoints.open_checkpoint(folder).load()
