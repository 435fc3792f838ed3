import gc
import importlib.util
import json
import pickle
import socket
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoints import DriftError, open_checkpoint, open_series
from checkpoints.errors import CheckpointMismatch, CorruptWeights, NotACheckpoint, UnsupportedArchitecture
from checkpoints.files.check import check_files
from checkpoints.files.headers import read_header
from checkpoints.series.compat import require_same_model
from tests.checkpoints.conftest import edit_config, gpt2_config, llama_config, save_model, save_tokenizer

IDS = torch.tensor([[1, 2, 3, 4, 5]])


def reference(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("config", [llama_config, gpt2_config])
def test_a_loaded_model_is_the_model(tmp_path, config):
    folder = save_model(tmp_path / "checkpoint-5", config())
    loaded = open_checkpoint(folder).load()
    assert torch.equal(loaded.model(IDS).logits, reference(folder)(IDS).logits)
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert (loaded.device, loaded.dtype, loaded.attention) == ("cpu", "float32", "sdpa")
    assert loaded.tokenizer is None


def test_dtype_and_attention_are_what_was_asked_for(checkpoint_folder):
    loaded = open_checkpoint(checkpoint_folder).load(dtype="bfloat16", attention="eager")
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}
    assert loaded.model.config._attn_implementation == "eager"
    with pytest.raises(DriftError, match="unknown dtype 'float99'; choose from float32, "):
        open_checkpoint(checkpoint_folder).load(dtype="float99")
    with pytest.raises(DriftError, match="no-such-attention"):
        open_checkpoint(checkpoint_folder).load(attention="no-such-attention")


def test_an_unknown_device_is_refused(checkpoint_folder):
    with pytest.raises(DriftError, match="device 'nowhere'"):
        open_checkpoint(checkpoint_folder).load(device="nowhere")


def test_tied_embeddings_load_and_stay_tied(tmp_path):
    folder = save_model(tmp_path / "checkpoint-5", llama_config(tie_word_embeddings=True))
    model = open_checkpoint(folder).load().model
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("form", ["bf16", "sharded"])
def test_other_forms_of_safetensors(tmp_path, form):
    folder = save_model(tmp_path / "checkpoint-5", max_shard_size="20KB" if form == "sharded" else "1GB")
    if form == "bf16":
        file = folder / "model.safetensors"
        save_file({k: v.bfloat16() for k, v in load_file(file).items()}, file, {"format": "pt"})
    else:
        assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert torch.equal(open_checkpoint(folder).load().model(IDS).logits, reference(folder)(IDS).logits)


def as_bin(folder, content=None):
    file = folder / "model.safetensors"
    torch.save(load_file(file) if content is None else content, folder / "pytorch_model.bin")
    file.unlink()
    return folder / "pytorch_model.bin"


def test_bin_weights_load_safely(checkpoint_folder):
    expected = reference(checkpoint_folder)(IDS).logits
    as_bin(checkpoint_folder)
    assert torch.equal(open_checkpoint(checkpoint_folder).load().model(IDS).logits, expected)


class Malicious:
    def __reduce__(self):
        return exec, ("raise SystemExit('code from a checkpoint ran')",)


def test_a_pickle_that_runs_code_is_refused(checkpoint_folder):
    file = as_bin(checkpoint_folder, {"model.embed_tokens.weight": Malicious()})
    with pytest.raises(CorruptWeights, match="cannot be unpickled safely"):
        open_checkpoint(checkpoint_folder).load()
    file.write_bytes(pickle.dumps(Malicious(), protocol=2))
    with pytest.raises(CorruptWeights, match="cannot be unpickled safely"):
        open_checkpoint(checkpoint_folder).load()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"PK\x03\x04rest", "is truncated"), (b"hello", "no PyTorch weight file")],
)
def test_damaged_bin_files(checkpoint_folder, content, message):
    as_bin(checkpoint_folder).write_bytes(content)
    with pytest.raises(CorruptWeights, match=message):
        open_checkpoint(checkpoint_folder).load()


def test_code_from_a_checkpoint_never_runs(checkpoint_folder, tmp_path):
    edit_config(
        checkpoint_folder, model_type="mine", auto_map={"AutoModelForCausalLM": "model.Mine", "AutoConfig": "model.C"}
    )
    (checkpoint_folder / "model.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UnsupportedArchitecture, match="refused"):
        open_checkpoint(checkpoint_folder).load()
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def own_code(checkpoint_folder, tmp_path, monkeypatch):
    """A checkpoint whose model is its own code: a Llama by another name, which leaves a trace when it is run."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    auto_map = {"AutoModelForCausalLM": "model.Mine", "AutoConfig": "model.Config"}
    edit_config(checkpoint_folder, model_type="mine", auto_map=auto_map)
    lines = [
        f"open({str(tmp_path / 'ran')!r}, 'w').close()",
        "from transformers import LlamaConfig, LlamaForCausalLM",
        "class Config(LlamaConfig):",
        "    model_type = 'mine'",
        "class Mine(LlamaForCausalLM):",
        "    config_class = Config",
    ]
    (checkpoint_folder / "model.py").write_text("\n".join(lines))
    return checkpoint_folder


@pytest.mark.parametrize("named", ["", "org/name", "*", "elsewhere", "checkpoint-1"])
def test_code_runs_only_where_its_own_checkpoint_is_named(own_code, tmp_path, monkeypatch, named):
    monkeypatch.setenv("CIRCUIT_DRIFT_ALLOW_CODE", named)
    with pytest.raises(UnsupportedArchitecture, match=f"allow it: CIRCUIT_DRIFT_ALLOW_CODE={own_code}"):
        open_checkpoint(own_code).load()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("of_series", [False, True])
def test_code_that_the_user_allows_by_name_makes_the_model(own_code, tmp_path, monkeypatch, of_series):
    monkeypatch.setenv("CIRCUIT_DRIFT_ALLOW_CODE", f"org/other, {own_code.parent if of_series else own_code}")
    model = open_checkpoint(own_code).load().model
    assert (tmp_path / "ran").exists()
    assert type(model).__name__ == "Mine"
    edit_config(own_code, model_type="llama", auto_map=None)
    assert torch.equal(model(IDS).logits, reference(own_code)(IDS).logits)


def test_an_unknown_architecture_is_named(checkpoint_folder):
    edit_config(checkpoint_folder, model_type="unheard_of")
    with pytest.raises(UnsupportedArchitecture, match="unheard_of"):
        open_checkpoint(checkpoint_folder).load()


def truncate(file, keep):
    file.write_bytes(file.read_bytes()[:keep])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.unlink(), "no weights: looked for"),
        (lambda f: f.write_bytes(b""), r"is empty \(0 bytes\)"),
        (lambda f: truncate(f, 5), "truncated or no safetensors"),
        (lambda f: truncate(f, 500), "truncated or no safetensors"),
        (lambda f: truncate(f, f.stat().st_size - 4), "its header promises"),
        (lambda f: f.write_bytes(f.read_bytes() + b"more"), "4 more than its header accounts for"),
        (lambda f: f.write_bytes(b"not a safetensors file at all"), "truncated or no safetensors"),
        (lambda f: f.write_bytes((9).to_bytes(8, "little") + b"{\"a\": 5}}"), "is corrupt"),
        (lambda f: f.write_bytes((10).to_bytes(8, "little") + b'{"a": {} }'), "malformed header"),
        (lambda f: f.write_bytes((2).to_bytes(8, "little") + b"{}"), "holds no tensor"),
    ],
)  # fmt: skip
def test_damaged_safetensors_are_refused_before_loading(checkpoint_folder, damage, message):
    damage(checkpoint_folder / "model.safetensors")
    with pytest.raises(CorruptWeights, match=message):
        check_files(checkpoint_folder)
    with pytest.raises(CorruptWeights, match=message):
        open_checkpoint(checkpoint_folder).load()


def test_headers_agree_with_the_library(checkpoint_folder):
    file = checkpoint_folder / "model.safetensors"
    entries, tensors = read_header(file), load_file(file)
    assert entries.keys() == tensors.keys()
    data = file.read_bytes()
    for name, tensor in tensors.items():
        entry = entries[name]
        assert entry.shape == tuple(tensor.shape)
        assert data[entry.start : entry.end] == tensor.numpy().tobytes()


def sharded(tmp_path):
    folder = save_model(tmp_path / "checkpoint-5", max_shard_size="20KB")
    return folder, sorted(folder.glob("model-*.safetensors"))


def test_a_missing_shard_is_named(tmp_path):
    folder, shards = sharded(tmp_path)
    shards[1].unlink()
    with pytest.raises(CorruptWeights, match=rf"lacks 1 of {len(shards)} weight files: {shards[1].name}"):
        open_checkpoint(folder).load()


def test_a_truncated_shard_is_named(tmp_path):
    folder, shards = sharded(tmp_path)
    truncate(shards[0], shards[0].stat().st_size - 1)
    with pytest.raises(CorruptWeights, match=f"{shards[0].name} is truncated"):
        open_checkpoint(folder).load()


def test_an_index_that_promises_more_than_the_shards_hold(tmp_path):
    folder, shards = sharded(tmp_path)
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.extra.weight"] = shards[0].name
    index.write_text(json.dumps(content))
    with pytest.raises(CorruptWeights, match=r"lacks the tensor 'model\.extra\.weight'"):
        check_files(folder)
    content["weight_map"] = {"x": "../elsewhere.safetensors"}
    index.write_text(json.dumps(content))
    with pytest.raises(CorruptWeights, match="outside its folder"):
        check_files(folder)
    index.write_text("{}")
    with pytest.raises(CorruptWeights, match="names no shards"):
        check_files(folder)


def rewrite(folder, change):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


def test_weights_that_do_not_cover_the_model_are_refused(checkpoint_folder):
    rewrite(checkpoint_folder, lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(CorruptWeights, match=r"do not cover its model: 1 .*'model\.layers\.1\.mlp\.up_proj\.weight'"):
        open_checkpoint(checkpoint_folder).load()


def test_an_untied_model_without_its_head_is_refused(checkpoint_folder):
    rewrite(checkpoint_folder, lambda t: t.pop("lm_head.weight"))
    with pytest.raises(CorruptWeights, match=r"do not cover.*'lm_head\.weight'"):
        open_checkpoint(checkpoint_folder).load()


def test_weights_with_layers_that_the_config_lacks_are_refused(checkpoint_folder):
    edit_config(checkpoint_folder, num_hidden_layers=1, layer_types=None)
    with pytest.raises(CorruptWeights, match="leaves no place for"):
        open_checkpoint(checkpoint_folder).load()


def test_weights_of_another_shape_are_refused(checkpoint_folder):
    edit_config(checkpoint_folder, vocab_size=65)
    with pytest.raises(CorruptWeights, match=r"\(64, 32\).*\(65, 32\)"):
        open_checkpoint(checkpoint_folder).load()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_tensors_are_named(checkpoint_folder, value):
    rewrite(checkpoint_folder, lambda t: t["model.norm.weight"].__setitem__(3, value))
    with pytest.raises(CorruptWeights, match=r"1 values of 'model\.norm\.weight' are NaN or infinite"):
        open_checkpoint(checkpoint_folder).load()


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_a_damaged_config_is_named(checkpoint_folder, content):
    (checkpoint_folder / "config.json").write_text(content)
    with pytest.raises(DriftError, match=r"config\.json"):
        open_checkpoint(checkpoint_folder).load()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_config_with_a_byte_order_mark_is_read(checkpoint_folder, encoding):
    plain = open_checkpoint(checkpoint_folder).load().model(IDS).logits
    path = checkpoint_folder / "config.json"
    path.write_text(path.read_text(), encoding=encoding)
    assert torch.equal(open_checkpoint(checkpoint_folder).load().model(IDS).logits, plain)


def test_several_gguf_files_are_refused(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.gguf").write_bytes(b"GGUF")
    with pytest.raises(NotACheckpoint, match="2 GGUF files"):
        check_files(tmp_path)


def test_a_gguf_needs_its_extra(tmp_path, monkeypatch):
    (tmp_path / "model.gguf").write_bytes(b"nope")
    with pytest.raises(CorruptWeights, match="no GGUF file"):
        open_checkpoint(tmp_path).load()
    (tmp_path / "model.gguf").write_bytes(b"GGUF\x03" + bytes(19))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DriftError, match=r"pip install 'circuit-drift\[gguf\]'"):
        open_checkpoint(tmp_path).load()


def test_the_tokenizer_is_the_checkpoints_or_the_series(run_folder):
    series = open_series(run_folder)
    assert series[0].load().tokenizer("a c")["input_ids"] == [1, 3]
    save_tokenizer(run_folder / "checkpoint-0", words=("c",))
    assert series[0].load().tokenizer("a c")["input_ids"] == [0, 1]
    assert series[0].tokenizer_hash != series[1].tokenizer_hash
    (run_folder / "tokenizer.json").write_text("{")
    with pytest.raises(DriftError, match=r"tokenizer in .* cannot be loaded"):
        series[1].load()


def test_loading_touches_no_network(run_folder, monkeypatch):
    def refuse(*_):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert open_series(run_folder)[0].load().tokenizer is not None


def test_one_model_is_alive_at_a_time(run_folder):
    seen, kept = [], []
    for loaded in open_series(run_folder).models():
        assert [ref() for ref in seen] == [None] * len(seen)
        seen.append(weakref.ref(loaded.model))
        kept.append(loaded)
    gc.collect()
    assert len(seen) == 5
    assert all(ref() is None for ref in seen)
    with pytest.raises(DriftError, match="let go of"):
        kept[0].model  # noqa: B018


def test_open_lets_go_even_after_an_error(checkpoint_folder):
    with pytest.raises(RuntimeError), open_checkpoint(checkpoint_folder).open() as loaded:
        ref = weakref.ref(loaded.model)
        raise RuntimeError
    gc.collect()
    assert ref() is None


def test_transformers_settings_are_restored(checkpoint_folder):
    from transformers.utils import logging

    logging.enable_progress_bar()
    before = logging.get_verbosity()
    open_checkpoint(checkpoint_folder).load()
    (checkpoint_folder / "config.json").write_text("{}")
    with pytest.raises(DriftError):
        open_checkpoint(checkpoint_folder).load()
    assert (logging.is_progress_bar_enabled(), logging.get_verbosity()) == (True, before)
    logging.disable_progress_bar()


def test_hashes_follow_content(tmp_path):
    one, same, other = (
        open_checkpoint(save_model(tmp_path / name, seed=seed)) for name, seed in [("a", 0), ("b", 0), ("c", 1)]
    )
    assert one.weights_hash == same.weights_hash != other.weights_hash
    assert one.config_hash == same.config_hash
    assert one.tokenizer_hash is None
    edit_config(same.path, transformers_version="0.0")
    assert one.config_hash == same.config_hash
    edit_config(same.path, rope_theta=1.0)
    assert one.config_hash != same.config_hash
    rewrite(same.path, lambda t: t["model.norm.weight"].add_(1))
    assert one.weights_hash != same.weights_hash


def test_sharded_weights_hash_over_all_shards(tmp_path):
    folder, shards = sharded(tmp_path)
    before = open_checkpoint(folder).weights_hash
    content = bytearray(shards[-1].read_bytes())
    content[-1] ^= 1
    shards[-1].write_bytes(bytes(content))
    assert open_checkpoint(folder).weights_hash != before
    shards[-1].unlink()
    with pytest.raises(CorruptWeights, match="cannot be read"):
        _ = open_checkpoint(folder).weights_hash


def test_checkpoints_of_one_run_are_the_same_model(run_folder):
    series = open_series(run_folder)
    require_same_model(series[0], series[-1])
    edit_config(series[0].path, rope_theta=12.0)
    require_same_model(series[0], series[-1])


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (lambda: llama_config(num_attention_heads=2, head_dim=16), "num_attention_heads is 4 in .* and 2 in"),
        (lambda: llama_config(num_key_value_heads=4), "num_key_value_heads is 2 in .* and 4 in"),
        (lambda: llama_config(num_hidden_layers=3), "num_hidden_layers is 2 in .* and 3 in"),
        (lambda: llama_config(vocab_size=70), "vocab_size is 64 in .* and 70 in"),
        (gpt2_config, "model_type is llama in .* and gpt2 in"),
    ],
)
def test_models_of_other_shapes_are_refused(tmp_path, config, field):
    a, b = save_model(tmp_path / "a"), save_model(tmp_path / "b", config())
    with pytest.raises(CheckpointMismatch, match=field):
        require_same_model(open_checkpoint(a), open_checkpoint(b))


def test_other_tensor_shapes_and_tokenizers_are_refused(tmp_path):
    a, b = (open_checkpoint(save_tokenizer(save_model(tmp_path / name))) for name in "ab")
    require_same_model(a, b)
    save_tokenizer(b.path, words=("c", "b", "a"))
    with pytest.raises(CheckpointMismatch, match=r"the tokenizer \(sha256\)"):
        require_same_model(a, b)
    rewrite(b.path, lambda t: t.__setitem__("lm_head.weight", torch.zeros(64, 31)))
    with pytest.raises(CheckpointMismatch, match=r"shape of lm_head\.weight is \(64, 32\)"):
        require_same_model(a, b)
