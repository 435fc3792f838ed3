"""Models spread by a device map. Two devices are not to be had here: the maps put every part on the CPU, and accelerate
is made to attach the hooks that carry tensors from one device to the next, which are left out where there is one."""

import importlib.util
import json

import pytest
import torch

from checkpoints import DriftError, open_checkpoint, open_series
from tests.checkpoints.architectures import tiny_configs
from tests.checkpoints.conftest import save_model

IDS = torch.tensor([[1, 2, 3, 4, 5]])
PARTS = ("model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "model.rotary_emb", "lm_head")
SPLIT = dict.fromkeys(PARTS, "cpu")


@pytest.fixture
def hooked(monkeypatch):
    """Every model that is loaded with a map has accelerate's hooks on each of its parts."""
    attach_hooks(monkeypatch)


def attach_hooks(monkeypatch):
    from accelerate import dispatch_model

    from checkpoints.loading import build as loading

    plain = loading.build_whole

    def build(*arguments):
        model, device_map = plain(*arguments), arguments[-1].device_map
        return dispatch_model(model, device_map, force_hooks=True) if isinstance(device_map, dict) else model

    monkeypatch.setattr(loading, "build_whole", build)


@pytest.mark.parametrize("device_map", [{"": "cpu"}, SPLIT, "auto"], ids=["whole", "split", "auto"])
def test_a_spread_series_equals_one_on_one_device(run_folder, hooked, device_map):
    series = open_series(run_folder)
    expected = [checkpoint.load().model(IDS).logits for checkpoint in series]
    for loaded, logits in zip(series.models(device_map=device_map, reuse=True), expected, strict=True):
        assert torch.equal(loaded.model(IDS).logits, logits)
        assert (loaded.device, loaded.device_map) == ("cpu", {"": "cpu"})
        if device_map is SPLIT:
            assert type(loaded.model.model.layers[1]._hf_hook).__name__ == "AlignDevicesHook"


@pytest.mark.parametrize("name", ["gpt_neox", "gemma3", "qwen3_moe", "gpt_oss"])
def test_architectures_with_renamed_and_fused_tensors_spread_too(tmp_path, name):
    checkpoint = open_checkpoint(save_model(tmp_path / "checkpoint-1", tiny_configs()[name]))
    attention = "eager" if name == "gpt_oss" else "sdpa"
    whole, spread = (checkpoint.load(attention=attention, device_map=m) for m in (None, "balanced"))
    assert torch.equal(whole.model(IDS).logits, spread.model(IDS).logits)


@pytest.mark.parametrize(
    ("device_map", "message"),
    [
        ("sideways", "device map 'sideways' is none of auto, balanced"),
        ({"model.layers.0": "cpu"}, r"says nothing of 12 tensors.*'model\.embed_tokens\.weight' first"),
        ({"": "disk"}, "on disk or, beside an accelerator, in main memory"),
        ({"": "cuda:99"}, r"the device map names 'cuda:99': .*; name devices of this machine"),
        ({"": "sideways"}, r"the device map names 'sideways': .*; name devices of this machine"),
    ],
)
def test_maps_that_leave_weights_on_no_device_are_refused(checkpoint_folder, tmp_path, device_map, message):
    with pytest.raises(DriftError, match=message):
        open_checkpoint(checkpoint_folder).load(device_map=device_map)


def test_a_map_needs_its_extra(checkpoint_folder, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DriftError, match=r"spreads a model.*accelerate: pip install 'circuit-drift\[gpus\]'"):
        open_checkpoint(checkpoint_folder).load(device_map="auto")


def test_a_distributed_checkpoint_is_not_spread(tmp_path):
    from tests.checkpoints.loading.test_formats import save_distributed

    source = save_model(tmp_path / "source")
    save_distributed(tmp_path / "step-1", source)
    (tmp_path / "step-1" / "config.json").write_text(json.dumps(json.loads((source / "config.json").read_text())))
    with pytest.raises(DriftError, match="is put on one device"):
        open_checkpoint(tmp_path / "step-1").load(device_map="auto")


def test_where_every_part_lies_is_told_in_the_coarsest_way():
    from checkpoints.loading.spread import _devices

    with torch.device("meta"):
        away = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
    here = torch.nn.ModuleDict({"near": torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.ReLU()), "far": away})
    assert _devices("", here) == {"near": "cpu", "far": "meta"}
    assert _devices("", here["near"]) == {"": "cpu"}
