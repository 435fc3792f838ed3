"""Changes of weights without a prompt, held against dense products, for every family."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedModel

from checkpoints import open_checkpoint
from checkpoints.errors import UnsupportedArchitecture
from checkpoints.files.trust import ALLOWED
from checkpoints.model.anatomy import anatomy
from circuit_drift.store.store import Store
from circuit_drift.weights.change import WeightChange
from circuit_drift.weights.compare import weight_change
from circuit_drift.weights.maps import Factors, compared
from circuit_drift.weights.reading import both
from circuit_drift.weights.stored import kept_weight_change
from tests.checkpoints.conftest import edit_config
from tests.circuits.circuit_families import FAMILIES, build
from tests.drift.handmade import write_series


def saved(folder: Path, model: PreTrainedModel) -> Path:
    model.float().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("which", ["a", "b"])
def test_whole_numbers_of_quantised_weights_are_not_taken_for_weights(tmp_path, which):
    folders = {name: saved(tmp_path / name, build("llama_gqa")) for name in "ab"}
    edit_config(folders[which], quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    with pytest.raises(UnsupportedArchitecture, match=rf"{which} is quantised .*: what it stores are weights only"):
        weight_change(*map(open_checkpoint, folders.values()))


def pair(tmp_path: Path, name: str, **overrides) -> tuple[PreTrainedModel, PreTrainedModel, WeightChange]:
    a, b = build(name, **overrides).float(), build(name, **overrides).float()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in b.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return a, b, changed(tmp_path, a, b)


def changed(tmp_path: Path, a: PreTrainedModel, b: PreTrainedModel) -> WeightChange:
    return weight_change(open_checkpoint(saved(tmp_path / "a", a)), open_checkpoint(saved(tmp_path / "b", b)))


def dense(model: PreTrainedModel, layer: int, head: int) -> tuple[torch.Tensor, torch.Tensor]:
    """QK [d + 1, d + 1] and OV [d + 1, d] of a head, in full; inputs are the normalised stream and 1."""
    parts = anatomy(model)
    block = parts.blocks[layer]
    group = head // (block.q.heads // block.k.heads)

    def of(projection, own):
        weight, bias = projection.weight[own].double(), projection.bias
        norm = block.attention_norm
        constant = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias[own].double()
        if norm is not None:
            if norm.bias is not None:
                constant = constant + weight @ norm.bias.double()
            weight = weight * norm.gain.double()
            if norm.kind == "layer":
                weight = weight - weight.mean(1, keepdim=True)
        return torch.cat([weight, constant[:, None]], 1)

    return of(block.q, head).T @ of(block.k, group), of(block.v, group).T @ block.output_weight[head].double()


@pytest.mark.parametrize("name", [name for name in FAMILIES if not name.startswith("deepseek")])
def test_maps_of_heads_are_those_of_dense_products(name: str, tmp_path: Path):
    a, b, found = pair(tmp_path, name)
    for kind, relative, cosine in ((0, found.qk, found.qk_cosine), (1, found.ov, found.ov_cosine)):
        one, two = dense(a, 1, 3)[kind].detach(), dense(b, 1, 3)[kind].detach()
        assert relative[1, 3] == pytest.approx(float((two - one).norm() / one.norm()), rel=1e-5)
        assert cosine[1, 3] == pytest.approx(float((one * two).sum() / (one.norm() * two.norm())), abs=1e-6)
    assert len(found.names) == len(set(found.names))
    assert (found.relative > 0).all()


def test_latent_heads_have_no_map_of_their_own_and_their_weights_are_compared(tmp_path: Path):
    _, _, found = pair(tmp_path, "deepseek_v3")
    assert np.isnan(found.qk).all()
    assert "latents" in found.notes[0]
    assert "a0.h1.q" in found.names
    assert found.section(anchor="x").figure is None


def test_each_component_is_compared_by_its_own_weights(tmp_path: Path):
    a, b = build("llama_gqa").float(), build("llama_gqa").float()
    with torch.no_grad():
        b.model.layers[1].mlp.down_proj.weight *= 1.5
        b.model.layers[0].self_attn.o_proj.weight[:, 8:16] *= -1
        b.model.layers[0].self_attn.k_proj.weight[8:16] = 0
    found = changed(tmp_path, a, b)
    rows = dict(zip(found.names, zip(found.relative, found.cosine, strict=True), strict=True))
    assert rows["m1.down"] == (pytest.approx(0.5), pytest.approx(1))
    assert rows["a0.h1.o"] == (pytest.approx(2), pytest.approx(-1))
    assert rows["a0.kv1.k"][0] == pytest.approx(1)
    assert np.isnan(rows["a0.kv1.k"][1])
    still = {name for name, (relative, _) in rows.items() if relative == 0}
    assert still == set(rows) - {"m1.down", "a0.h1.o", "a0.kv1.k"}
    assert found.ov[0].tolist() == pytest.approx([0, 2, 0, 0], abs=1e-7)
    assert found.qk[0].tolist() == pytest.approx([0, 0, 1, 1], abs=1e-7)
    assert not found.qk[1].any()
    frame = found.to_frame()
    assert frame["component"].tolist()[:2] == ["a0.h1", "a0.h1.o"]
    assert "largest QK map a0.h2 (1); largest OV map a0.h1 (2, cosine -1.000)" in found.verdict
    assert "of other components m1.down (0.5)" in found.verdict


def test_equal_weights_have_not_changed(tmp_path: Path):
    found = changed(tmp_path, build("gpt2"), build("gpt2"))
    assert not found.relative.any()
    assert found.cosine == pytest.approx(1)
    assert "hold equal ones" in found.verdict


def test_turning_queries_and_keys_alike_changes_no_map():
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 4, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    turn = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))[0]
    relative, cosine = compared(Factors(q, k), Factors(turn @ q, turn @ k))
    assert float(relative) == pytest.approx(0, abs=1e-7)
    assert float(cosine) == pytest.approx(1)
    tiny = compared(Factors(q, k), Factors(q * (1 + 1e-9), k))
    assert float(tiny[0]) == pytest.approx(1e-9, rel=1e-5)


def test_weights_are_streamed_from_files_that_hold_the_models_names(tmp_path: Path):
    folder = saved(tmp_path / "a", build("llama_gqa"))
    checkpoint = open_checkpoint(folder)
    with both(checkpoint, checkpoint) as held:
        assert held.shape.get_input_embeddings().weight.is_meta
        assert held.a("model.norm.weight").shape == (16,)
    mixture = open_checkpoint(saved(tmp_path / "moe", build("mixtral")))
    with both(mixture, mixture) as held:
        assert not held.shape.get_input_embeddings().weight.is_meta


def test_a_change_is_kept_and_drawn(tmp_path: Path):
    _, _, found = pair(tmp_path, "llama_gqa")
    again = WeightChange.load(found.save(tmp_path / "kept"))
    assert again.to_frame().equals(found.to_frame())
    qk, ov = found.plot().data
    assert np.asarray(qk.z) == pytest.approx(found.qk)
    assert np.asarray(ov.z) == pytest.approx(found.ov)


READS_REFUSED = """
import sys
from checkpoints import open_checkpoint
from circuit_drift.store.store import Store
from circuit_drift.weights.stored import kept_weight_change

*pair, store = sys.argv[1:]
try:
    kept_weight_change(*map(open_checkpoint, pair), Store.open(store))
except Exception as error:
    print(type(error).__name__, error)
print(sorted({"torch", "transformers"} & set(sys.modules)))
"""


def test_a_refused_architecture_is_remembered_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    a, b = (open_checkpoint(folder) for folder in sorted(write_series(tmp_path / "lines", (0, 10)).iterdir()))
    store = Store.open(tmp_path / "store")
    with pytest.raises(UnsupportedArchitecture, match="`handmade`") as first:
        kept_weight_change(a, b, store)
    moved = [open_checkpoint(shutil.copytree(each.path, tmp_path / "moved" / each.path.name)) for each in (a, b)]
    words = [sys.executable, "-c", READS_REFUSED, *(str(each.path) for each in moved), str(store.path)]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    reason = str(first.value).replace(str(a.path), str(moved[0].path))
    assert told == f"UnsupportedArchitecture {reason}\n[]\n"
    monkeypatch.setitem(sys.modules, "circuit_drift.weights.compare", None)
    monkeypatch.setenv(ALLOWED, str(a.path))  # code that may run now may make a model of it: asked anew
    with pytest.raises(ImportError):
        kept_weight_change(a, b, store)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft's own use of what transformers renames
def test_adapters_are_compared_in_the_shape_of_their_base(tmp_path: Path):
    """B on q alone, r = 1: the base's other components are as they were, and q has changed."""
    pytest.importorskip("peft")
    from peft import LoraConfig, get_peft_model

    base = build("llama_gqa")
    base.save_pretrained(tmp_path / "base")
    folders = []
    for step, size in ((0, 0.0), (1, 0.5)):
        model = LlamaForCausalLM.from_pretrained(tmp_path / "base")
        adapted = get_peft_model(model, LoraConfig(r=1, target_modules=["q_proj"], task_type="CAUSAL_LM"))
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.constant_(parameter, size)
        adapted.save_pretrained(tmp_path / f"checkpoint-{step}")
        folders.append(tmp_path / f"checkpoint-{step}")
    adapters = list(map(open_checkpoint, folders))
    found = weight_change(*adapters)
    changed = {name for name, size in zip(found.names, found.relative, strict=True) if size > 0}
    assert changed and all(name.endswith(".q") for name in changed)
    with both(*adapters) as held:  # no model stands in memory, and the merged weights are read all the same
        weight = held.shape.get_input_embeddings().weight
        assert weight.untyped_storage().nbytes() == weight.itemsize
        for name, parameter in adapters[1].load().model.named_parameters():
            torch.testing.assert_close(held.b(name).float(), parameter, atol=1e-6, rtol=0)
    beside_base = weight_change(open_checkpoint(tmp_path / "base"), adapters[1])
    assert beside_base.relative == pytest.approx(found.relative, rel=1e-5)
    assert beside_base.qk == pytest.approx(found.qk, rel=1e-5)
