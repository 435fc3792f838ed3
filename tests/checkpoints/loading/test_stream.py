"""Streaming a series: reused models equal fresh ones bit for bit, and memory stays flat."""

import gc
import os
import resource
import shutil
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
import torch

from checkpoints import DriftError, open_series
from checkpoints.errors import CorruptWeights, UnsupportedArchitecture
from checkpoints.loading.stream import _Live, _stored
from tests.checkpoints.architectures import tiny_configs
from tests.checkpoints.conftest import edit_config, llama_config, save_model

IDS = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11, 12, 13, 14, 15, 16]])
EAGER_ONLY = {"gemma2", "gpt_oss"}  # transformers refuses SDPA for these


def attention_of(name):
    return "eager" if name in EAGER_ONLY else "sdpa"


@pytest.fixture(scope="module")
def architecture_runs(tmp_path_factory):
    """Three checkpoints of every architecture, saved as bfloat16: loading converts them or not."""
    root = tmp_path_factory.mktemp("architectures")
    for name, config in tiny_configs().items():
        for step in range(3):
            config.dtype = torch.bfloat16
            save_model(root / name / f"checkpoint-{step}", config, seed=step)
    return root


@pytest.mark.parametrize("name", tiny_configs())
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_reused_model_equals_a_fresh_one_bit_for_bit(architecture_runs, name, dtype):
    series = open_series(architecture_runs / name)
    attention = attention_of(name)
    seen = set()
    for loaded in series.models(dtype=dtype, attention=attention, reuse=True):
        fresh = loaded.checkpoint.load(dtype=dtype, attention=attention).model
        kept, expected = loaded.model.state_dict(), fresh.state_dict()
        assert kept.keys() == expected.keys()
        assert all(torch.equal(kept[key], expected[key]) for key in expected)
        assert dict(loaded.model.named_buffers()).keys() == dict(fresh.named_buffers()).keys()
        with torch.no_grad():
            assert torch.equal(loaded.model(IDS).logits, fresh(IDS).logits)
        assert not any(p.requires_grad for p in loaded.model.parameters())
        seen.add(id(loaded.model))
    assert len(seen) == 1


@pytest.mark.parametrize("name", tiny_configs())
def test_loading_equals_plain_transformers(architecture_runs, name):
    from transformers import AutoModelForCausalLM

    checkpoint = open_series(architecture_runs / name)[-1]
    attention = attention_of(name)
    plain = AutoModelForCausalLM.from_pretrained(
        checkpoint.path, dtype=torch.float32, attn_implementation=attention
    ).eval()
    with torch.no_grad():
        assert torch.equal(checkpoint.load(attention=attention).model(IDS).logits, plain(IDS).logits)


def test_files_are_copied_straight_in_only_where_names_and_values_agree(architecture_runs):
    straight = {
        name: _Live(open_series(architecture_runs / name)[0].load(attention=attention_of(name))).direct
        for name in ("llama", "llama_tied", "gpt2", "gpt_neox", "mixtral")
    }
    assert straight == {"llama": True, "llama_tied": True, "gpt2": True, "gpt_neox": True, "mixtral": False}


def rewrite(folder, change):
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


def test_a_tensor_of_another_name_has_a_place_only_where_its_values_leave_no_doubt(tmp_path):
    """GPT-NeoX is stored with `embed_out` for `lm_head`, and as Pythia with masks that the model has no place for."""
    config = tiny_configs()["gpt_neox"]
    for step in range(2):
        folder = save_model(tmp_path / "run" / f"checkpoint-{step}", config, seed=step)
        rewrite(folder, lambda held: held.update({"gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 8, 8)}))
    series = open_series(tmp_path / "run")
    for loaded in series.models(reuse=True):
        assert torch.equal(loaded.model(IDS).logits, loaded.checkpoint.load().model(IDS).logits)
    places = _Live(series[0].load()).places
    assert places["embed_out.weight"] == "lm_head.weight"
    assert places["gpt_neox.layers.0.attention.bias"] is None
    rewrite(series[1].path, lambda held: held.pop("gpt_neox.layers.0.attention.bias"))
    assert _Live(series[0].load()).read(series[1]) is None  # other names than the first's: transformers is to see to it
    bare = save_model(tmp_path / "tied" / "checkpoint-0", config)
    double = "gpt_neox.layers.0.attention.masked_bias"
    rewrite(bare, lambda held: held.update({double: held["embed_out.weight"].clone()}))
    assert _Live(open_series(tmp_path / "tied")[0].load()).places is None


def test_a_released_handle_gives_no_access_to_later_weights(run_folder):
    handles = list(open_series(run_folder).models(reuse=True))
    for handle in handles:
        with pytest.raises(DriftError, match="let go of"):
            _ = handle.model


def test_another_config_builds_another_model(run_folder):
    edit_config(run_folder / "checkpoint-10", rope_parameters={"rope_theta": 99.0, "rope_type": "default"})
    series = open_series(run_folder)
    models, logits = [], []
    for loaded in series.models(reuse=True):
        models.append(weakref.ref(loaded.model))
        logits.append(loaded.model(IDS).logits)
    assert [models[i] == models[i + 1] for i in range(4)] == [True, False, False, True]
    assert torch.equal(logits[2], series[2].load().model(IDS).logits)


def replace_a_parameter(model):
    model.model.norm.weight = torch.nn.Parameter(model.model.norm.weight.clone())


def wrap_a_module(model):
    model.model.norm = torch.nn.Sequential(model.model.norm)


@pytest.mark.parametrize("change", [replace_a_parameter, wrap_a_module, torch.nn.Module.train])
def test_a_model_that_was_taken_apart_is_not_reused(run_folder, change):
    series = open_series(run_folder)
    expected = [checkpoint.load().model(IDS).logits for checkpoint in series]
    for loaded, logits in zip(series.models(reuse=True), expected, strict=True):
        assert torch.equal(loaded.model(IDS).logits, logits)
        change(loaded.model)


def test_weights_written_into_the_model_do_not_outlive_their_checkpoint(run_folder):
    series = open_series(run_folder)
    expected = [checkpoint.load().model(IDS).logits for checkpoint in series]
    for loaded, logits in zip(series.models(reuse=True), expected, strict=True):
        assert torch.equal(loaded.model(IDS).logits, logits)
        for parameter in loaded.model.parameters():
            parameter.zero_()


def test_a_bad_checkpoint_is_refused_in_a_live_model_too(run_folder):
    from safetensors.torch import load_file, save_file

    file = run_folder / "checkpoint-10" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, file, {"format": "pt"})
    models = open_series(run_folder).models(reuse=True)
    next(models), next(models)
    with pytest.raises(CorruptWeights, match="checkpoint-10: 1 values"):
        next(models)


def test_the_next_checkpoint_is_read_while_this_one_computes(run_folder):
    from checkpoints.files.hashes import _hash_file

    models = open_series(run_folder).models()
    next(models)
    for thread in threading.enumerate():
        if thread.name.startswith("read ahead"):
            thread.join()
    before = _hash_file.cache_info()
    _ = open_series(run_folder)[1].weights_hash
    assert _hash_file.cache_info().hits == before.hits + 1
    models.close()


def test_what_is_read_ahead_ends_with_its_stream(run_folder, monkeypatch):
    """A process that ended while a thread of it was in torch was aborted: "terminate called"."""
    read, begun = [], threading.Event()

    def slowly(weights):
        for name, tensor in _stored(weights):
            if threading.current_thread() is not threading.main_thread():
                read.append(name)
                begun.set()
                time.sleep(0.02)
            yield name, tensor

    monkeypatch.setattr("checkpoints.loading.stream._stored", slowly)
    models = open_series(run_folder).models(reuse=True)
    whole = len(next(models).model.state_dict())
    assert begun.wait(30)
    models.close()
    then = len(read)
    time.sleep(0.1)
    assert len(read) == then < whole


@pytest.mark.parametrize(("sizes", "models"), [(1.6, 1), (1.4, 5)])
def test_without_room_for_a_second_each_is_loaded_afresh(run_folder, monkeypatch, sizes, models):
    size = sum(parameter.nbytes for parameter in open_series(run_folder)[0].load().model.parameters())
    monkeypatch.setattr("checkpoints.loading.room.free_main_memory", lambda: int(sizes * size))
    found = {}
    for loaded in open_series(run_folder).models(reuse=True):
        found[id(loaded.model)] = loaded.model
    assert len(found) == models


def test_reading_ahead_leaves_errors_to_loading(run_folder):
    shutil.rmtree(run_folder / "checkpoint-1")
    (run_folder / "checkpoint-1").mkdir()
    models = open_series(run_folder).models()
    next(models)
    with pytest.raises(DriftError, match="checkpoint-1"):
        next(models)


def live_tensors():
    gc.collect()
    return [item for item in gc.get_objects() if issubclass(type(item), torch.Tensor)]  # isinstance wakes old modules


def storages(tensors):
    return {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}


def live_tensor_bytes(earlier=()):
    """Bytes of the tensors that are alive now, those of some earlier ones left out."""
    ours = storages(live_tensors()).items() - storages(earlier).items()
    return sum(size for _, size in ours)


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_flat_over_a_series(tmp_path, reuse):
    config = llama_config(hidden_size=128, intermediate_size=512, vocab_size=32_768)  # large beside slack
    source = save_model(tmp_path / "source", config)
    size = (source / "model.safetensors").stat().st_size
    for step in range(16):
        shutil.copytree(source, tmp_path / "run" / f"checkpoint-{step}", copy_function=os.link)
    earlier, tensors, resident = live_tensors(), {}, []  # those of tests before are held, so none takes their place
    for loaded in open_series(tmp_path / "run").models(reuse=reuse):
        loaded.model(IDS)
        gc.collect()
        resident.append(resident_bytes())
        if loaded.checkpoint.step in (3, 14):
            tensors[loaded.checkpoint.step] = live_tensor_bytes(earlier)
    assert max(tensors.values()) < 2.2 * size  # one model and, once read ahead, one checkpoint's tensors
    assert min(resident[10:]) - min(resident[4:10]) < 2 * size  # reading ahead comes and goes; what is kept would add 6


@pytest.mark.parametrize("name", sorted(EAGER_ONLY))
def test_an_attention_that_an_architecture_lacks_is_refused(architecture_runs, name):
    with pytest.raises(UnsupportedArchitecture, match="try attention='eager'"):
        open_series(architecture_runs / name)[0].load(attention="sdpa")
