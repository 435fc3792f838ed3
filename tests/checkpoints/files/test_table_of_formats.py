"""The table of model-file formats: one row is enough for a format that nobody else knows."""

import hashlib
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch

from checkpoints import open_checkpoint, open_series
from checkpoints.audit import audit
from checkpoints.errors import CheckpointMismatch, CorruptWeights, DriftError, NotACheckpoint
from checkpoints.files import formats
from checkpoints.files.formats import Format, find_published, find_weights, is_checkpoint, packed_file
from checkpoints.files.headers import TensorEntry
from checkpoints.loading import stream
from checkpoints.series.compat import require_same_model
from tests.checkpoints.conftest import edit_config, gpt2_config, llama_config, save_model, save_tokenizer

OWN_FILES = {
    "checkpoints/results/artifacts.py",
    "circuit_drift/behaviour/tuning.py",
    "circuit_drift/lab/build.py",
    "circuit_drift/lab/natural/build.py",
    "circuit_drift/training/beside.py",
    "circuit_drift/training/strategies/checkpointing.py",
}
"""Modules that name a file which they write themselves."""
IDS = torch.tensor([[1, 2, 3, 4, 5]])


def toy_entries(files):
    """A line of JSON, name -> shape; then the tensors' float32 bytes one after the other."""
    (file,) = files
    with file.open("rb") as opened:
        head = opened.readline()
    place, entries = len(head), {}
    for name, shape in json.loads(head).items():
        end = place + 4 * math.prod(shape)
        entries[name] = TensorEntry(file, "F32", tuple(shape), place, end)
        place = end
    if file.stat().st_size != place:
        raise CorruptWeights(f"{file} has {file.stat().st_size} bytes, its head promises {place}; restore the file")
    return entries


def toy_tensors(files):
    for name, entry in toy_entries(files).items():
        data = bytearray(entry.file.read_bytes()[entry.start : entry.end])
        yield name, torch.frombuffer(data, dtype=torch.float32).reshape(entry.shape)


def build_toy(checkpoint, weights, placement):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(checkpoint.path)
    dtype = getattr(torch, placement.dtype)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=placement.attention)
    model.load_state_dict(dict(toy_tensors(weights.files)))
    return model


TOY = Format(
    "toy",
    names=("model.toy",),
    endings=(".toy",),
    find=lambda folder: folder / "model.toy" if (folder / "model.toy").exists() else None,
    files=lambda found: (found,),
    entries=toy_entries,
    loader=f"{__name__}:build_toy",
    tensors=f"{__name__}:toy_tensors",
)


def as_toy(folder: Path) -> Path:
    """Write a folder's safetensors file as a toy one."""
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    head = json.dumps({name: list(tensor.shape) for name, tensor in tensors.items()}) + "\n"
    data = b"".join(tensor.numpy().tobytes() for tensor in tensors.values())
    (folder / "model.toy").write_bytes(head.encode() + data)
    (folder / "model.safetensors").unlink()
    return folder


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """Two checkpoints of the toy format, and the same ones as safetensors."""
    monkeypatch.setattr(formats, "TABLE", (*formats.TABLE, TOY))
    for step in (1, 2):
        plain = save_model(tmp_path / "plain" / f"checkpoint-{step}", llama_config(), seed=step)
        shutil.copytree(plain, tmp_path / "toy" / plain.name)
        as_toy(tmp_path / "toy" / plain.name)
    for run in ("plain", "toy"):
        save_tokenizer(tmp_path / run)
    return tmp_path


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def test_a_format_of_one_row_is_opened_checked_hashed_and_loaded(toys):
    toy, plain = open_series(toys / "toy")[0], open_series(toys / "plain")[0]
    file = toy.path / "model.toy"
    assert find_weights(toy.path).format is TOY
    assert toy.weights_hash == hashlib.sha256(file.read_bytes()).hexdigest()
    assert file in toy.files
    require_same_model(toy, plain)
    assert torch.equal(logits(toy.load().model), logits(plain.load().model))
    assert audit(open_series(toys / "toy"), depth="weights").status == 0
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(CorruptWeights, match=r"its head promises"):
        toy.load()
    assert [f.kind for f in audit(open_series(toys / "toy")).faults] == ["damaged_files"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 10**6}, r"asks for num_hidden_layers 1,000,000, but the weight files hold 21 tensors"),
        ({"_attn_implementation": "org/kernel"}, r"asks for code from elsewhere, _attn_implementation 'org/kernel'"),
    ],
)
def test_its_config_is_held_against_its_files_and_may_name_no_code(toys, changes, message):
    toy = open_series(toys / "toy")[0]
    edit_config(toy.path, **changes)
    with pytest.raises(DriftError, match=message):
        toy.load()


def test_its_files_go_straight_into_a_live_model(toys):
    loads = []
    for loaded, plain in zip(open_series(toys / "toy").models(reuse=True), open_series(toys / "plain"), strict=True):
        loads.append(id(loaded.model))
        assert stream._places(find_weights(loaded.checkpoint.path), dict(loaded.model.state_dict(keep_vars=True)))
        assert torch.equal(logits(loaded.model), logits(plain.load().model))
    assert len(set(loads)) == 1


def test_its_files_are_told_from_others_in_a_series_and_held_against_its_shapes(toys):
    (toys / "toy" / "checkpoint-3.toy").write_bytes(b"")
    assert [left.name for left in open_series(toys / "toy").left_out] == ["checkpoint-3.toy"]
    other = as_toy(save_model(toys / "other", llama_config(intermediate_size=64)))
    edit_config(other, intermediate_size=48)
    with pytest.raises(CheckpointMismatch, match="the shape of "):
        require_same_model(open_checkpoint(other), open_series(toys / "toy")[0])


def test_what_is_looked_for_is_what_the_table_names(toys):
    (toys / "empty").mkdir()
    with pytest.raises(
        NotACheckpoint, match=r"looked for config\.json with model\.safetensors or .*model\.toy, adapter"
    ):
        find_weights(toys / "empty")
    (toys / "toy" / "checkpoint-1" / "model.toy").unlink()
    with pytest.raises(CorruptWeights, match=r"has a config\.json but no weights: looked for .* and model\.toy$"):
        find_weights(toys / "toy" / "checkpoint-1")


@pytest.mark.parametrize(
    ("listing", "name", "files"),
    [
        (["model.safetensors", "pytorch_model.bin"], "safetensors", ["model.safetensors"]),
        (["model-1-of-2.safetensors", "model-2-of-2.safetensors", "model.safetensors"], "safetensors",
         ["model.safetensors"]),
        (["pytorch_model-1-of-2.bin", "pytorch_model-2-of-2.bin", "adapter_model.safetensors"], "PyTorch",
         ["pytorch_model-1-of-2.bin", "pytorch_model-2-of-2.bin"]),
        (["adapter_model.safetensors", "model.gguf"], "adapter", ["adapter_model.safetensors"]),
    ],
)  # fmt: skip
def test_a_listing_is_read_in_the_order_of_the_table(listing, name, files):
    row, found = find_published(listing)
    assert (row.name, list(found)) == (name, files)


def test_a_listing_without_weights_has_no_format():
    assert find_published(["README.md", "model.gguf", "__0_0.distcp", "training_args.bin"]) is None


def test_rows_are_taken_in_the_order_of_the_table(tmp_path):
    names = ["model.gguf", ".metadata", "adapter_model.safetensors", "pytorch_model.bin", "model.safetensors"]
    (tmp_path / "__0_0.distcp").touch()
    seen = []
    for name in names:
        (tmp_path / name).touch()
        seen.append(find_weights(tmp_path).format.name)
    assert seen == ["GGUF", "torch distributed", "adapter", "PyTorch", "safetensors"]
    assert is_checkpoint(tmp_path)
    assert packed_file(tmp_path) == tmp_path / "model.gguf"
    (tmp_path / "second.gguf").touch()
    assert packed_file(tmp_path) is None
    assert not is_checkpoint(tmp_path)


def test_every_row_names_what_it_says_it_does():
    from pkgutil import resolve_name

    for row in formats.TABLE:
        assert callable(resolve_name(row.loader))
        assert row.tensors is None or callable(resolve_name(row.tensors))
        assert row.entries is not None or row.check is not None, f"nothing checks {row.name}"
    assert [row.name for row in formats.TABLE if row.tensors] == ["safetensors"]


def test_shards_are_hashed_over_their_names_and_loaded_as_one(tmp_path):
    whole = open_checkpoint(save_model(tmp_path / "whole", gpt2_config()))
    shards = open_checkpoint(save_model(tmp_path / "shards", gpt2_config(), max_shard_size="40KB"))
    weights = find_weights(shards.path)
    assert len(weights.files) > 1
    assert weights.index == shards.path / "model.safetensors.index.json"
    lines = [f"{file.name}:{hashlib.sha256(file.read_bytes()).hexdigest()}\n" for file in sorted(weights.files)]
    assert shards.weights_hash == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert weights.entries().keys() == find_weights(whole.path).entries().keys()
    assert weights.index in shards.files


def test_an_index_of_another_formats_shards_is_refused(tmp_path):
    folder = save_model(tmp_path / "mixed")
    (folder / "model.safetensors").rename(folder / "model-1-of-1.bin")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1-of-1.bin"}}))
    with pytest.raises(CorruptWeights, match=r"model-1-of-1\.bin lacks the tensor 'a'"):
        open_checkpoint(folder).load()


def test_an_adapter_without_the_config_that_names_its_base_is_refused(tmp_path):
    folder = save_model(tmp_path / "adapter")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    with pytest.raises(CorruptWeights, match=r"no adapter_config\.json that names its base; restore it"):
        open_checkpoint(folder).load()


def test_nobody_else_tells_a_format_by_a_files_name():
    """Whoever looks at an ending decides about a format; only the table does, and the store names a file of its own."""
    root = Path(__file__).resolve().parents[3]
    named = r"\.(safetensors|bin|pt|pth|gguf|distcp)\""
    ending = {"checkpoints": rf"\.suffix\b(?! == \"\.json\")|{named}", "circuit_drift": named}
    found = {
        path.relative_to(root).as_posix(): line
        for package, told in ending.items()
        for path in (root / package).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(told, line)
    }
    assert found.keys() - OWN_FILES == {"checkpoints/files/formats.py"}, found
