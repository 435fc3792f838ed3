"""Models held in four or eight bits: what is asked of bitsandbytes, and what is refused."""

import importlib.util
import types

import pytest
import torch
from transformers import AutoModelForCausalLM

from checkpoints import DriftError, Placement, open_checkpoint, open_series
from checkpoints.errors import CorruptWeights
from checkpoints.loading import packing, stream
from tests import packed_weights
from tests.checkpoints.conftest import edit_config, save_model


@pytest.fixture
def there(monkeypatch):
    packed_weights.install(monkeypatch)
    monkeypatch.setattr(packing, "require_packages", lambda *_, **__: None)


def test_without_bitsandbytes_the_extra_is_named(monkeypatch, tmp_path):
    known = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else known(name))
    with pytest.raises(DriftError, match=r"nf4 packs weights, which needs .*bitsandbytes: .*circuit-drift\[packed\]"):
        open_checkpoint(save_model(tmp_path / "checkpoint-1")).load(dtype="nf4")


def test_what_is_quantised_already_is_refused(there, tmp_path):
    folder = save_model(tmp_path / "checkpoint-1")
    edit_config(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(DriftError, match=r"quantised already .* cannot be packed as int8"):
        open_checkpoint(folder).load(dtype="int8")


def test_transformers_is_asked_for_four_bits_that_compute_in_bfloat16_on_one_device():
    asked = packing.placing(Placement(device="cpu", dtype="nf4"))
    config = asked["quantization_config"]
    assert asked["device_map"] == {"": "cpu"}
    assert (config.load_in_4bit, config.bnb_4bit_quant_type, config.bnb_4bit_compute_dtype) == (
        True, "nf4", torch.bfloat16
    )  # fmt: skip
    assert packing.placing(Placement(dtype="int8", device_map="auto"))["device_map"] == "auto"
    assert packing.placing(Placement(dtype="int8"))["quantization_config"].load_in_8bit
    assert packing.placing(Placement(device_map="auto")) == {"device_map": "auto"}
    assert packing.placing(Placement()) == {}


@pytest.mark.parametrize("device_map", [None, "auto"])
def test_packed_weights_may_be_spread(there, tmp_path, monkeypatch, device_map):
    taken = []

    def from_pretrained(*_, **given):
        taken.append(given["device_map"])
        raise ValueError("no bitsandbytes here")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(CorruptWeights, match="no bitsandbytes here"):
        open_checkpoint(save_model(tmp_path / "checkpoint-1")).load(device="cpu", dtype="nf4", device_map=device_map)
    assert taken == [device_map or {"": "cpu"}]


def test_a_stored_quantised_model_is_refused_in_a_dtype_that_it_does_not_compute_in(tmp_path):
    model = open_checkpoint(save_model(tmp_path / "checkpoint-1")).load(dtype="bfloat16").model
    packing.require_floats(tmp_path, model, Placement(dtype="float32"))
    model.is_quantized = True
    packing.require_floats(tmp_path, model, Placement(dtype="bfloat16"))
    packing.require_floats(tmp_path, model, Placement(dtype="nf4"))
    with pytest.raises(DriftError, match=r"computes in bfloat16, not in float32: load it with dtype bfloat16"):
        packing.require_floats(tmp_path, model, Placement())


def test_packed_weights_that_are_not_finite_are_named_and_none_is_laid_out_anew(there, tmp_path):
    model = packed_weights.pack(open_checkpoint(save_model(tmp_path / "checkpoint-1")).load().model)
    layer = model.model.layers[1].mlp.down_proj
    layer.support_avx512bf16_for_cpu = True
    packing.check_packed(tmp_path, model)
    assert layer.support_avx512bf16_for_cpu is False
    layer.weight.quant_state.scales[0] = torch.nan
    with pytest.raises(CorruptWeights, match=r"values of 'model\.layers\.1\.mlp\.down_proj\.weight' are NaN"):
        packing.check_packed(tmp_path, model)


@pytest.mark.parametrize("packed", [False, True])
def test_no_other_weights_are_put_into_a_packed_model(monkeypatch, tmp_path, packed):
    for step in (1, 2):
        save_model(tmp_path / f"checkpoint-{step}", seed=step)
    monkeypatch.setattr(stream, "packed_modules", lambda _: iter([("layer", None)] if packed else []))
    kept = [loaded.model for loaded in open_series(tmp_path).models(reuse=True)]
    assert (kept[0] is not kept[1]) is packed


def test_files_that_are_no_whole_weights_are_refused(tmp_path):
    form = types.SimpleNamespace(loader="checkpoints.loading.build:build_gguf", name="GGUF")
    weights = types.SimpleNamespace(format=form, found=tmp_path / "model.gguf")
    with pytest.raises(DriftError, match=r"model\.gguf \(GGUF\) is not packed as nf4"):
        packing.require_whole(weights, Placement(dtype="nf4"))
