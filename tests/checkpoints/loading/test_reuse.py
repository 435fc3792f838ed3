"""A model that holds one checkpoint after the other has, at each, what a fresh load gives, whatever the files tie."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoints import open_checkpoint, open_series
from checkpoints.audit import audit
from checkpoints.errors import CorruptWeights
from tests.checkpoints.architectures import tiny_configs
from tests.checkpoints.conftest import edit_config, llama_config, save_model
from tests.checkpoints.loading.test_formats import save_adapter
from tests.checkpoints.loading.test_stream import EAGER_ONLY, IDS, rewrite

FAMILIES = {name: config for name, config in tiny_configs().items() if name != "llama_tied"}
HEADS = {
    "gpt_neox": ("gpt_neox.embed_in.weight", "embed_out.weight"),
    "gpt2": ("transformer.wte.weight", "lm_head.weight"),
}


def names_of(family):
    """What the files call the embedding and the head."""
    return HEADS.get(family, ("model.embed_tokens.weight", "lm_head.weight"))


def assert_as_fresh(series, **options):
    """Every checkpoint in the series, with its weights, ties and logits as if it had been opened alone."""
    for loaded in series.models(reuse=True, **options):
        fresh = loaded.checkpoint.load(**options).model
        kept, wanted = loaded.model.state_dict(), fresh.state_dict()
        assert kept.keys() == wanted.keys()
        assert all(torch.equal(kept[name], wanted[name]) for name in wanted)
        assert ties(loaded.model) == ties(fresh)
        with torch.no_grad():
            assert torch.equal(loaded.model(IDS).logits, fresh(IDS).logits)


def ties(model):
    return model.get_input_embeddings().weight is model.get_output_embeddings().weight


def with_head(folder, family, change):
    """Give the file of a tied model an output head of its own."""
    embedding, head = names_of(family)
    rewrite(folder, lambda held: held.update({head: change(held[embedding].clone())}))


def apart(weight):
    return weight + torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))


HISTORIES = {
    "one brings its own head": [None, apart, None, apart],
    "equal at first, apart later": [torch.clone, apart, apart, torch.clone],
    "apart at first, equal later": [apart, torch.clone, None, apart],
}


def check_history(root, family, history):
    """A series whose config ties throughout, and whose files do or do not; transformers decides by their values."""
    for step, change in enumerate(history):
        config = FAMILIES[family]
        config.tie_word_embeddings = True
        folder = save_model(root / f"checkpoint-{step}", config, seed=step)
        if change is not None:
            with_head(folder, family, change)
    series = open_series(root)
    assert len({checkpoint.config_hash for checkpoint in series}) == 1
    attention = "eager" if family in EAGER_ONLY else "sdpa"
    assert [ties(c.load(attention=attention).model) for c in series] == [change is not apart for change in history]
    assert_as_fresh(series, attention=attention)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_of_its_own_among_tied_ones_in_every_family(tmp_path, family):
    check_history(tmp_path / "run", family, [None, apart, None])


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_heads_of_their_own_among_tied_ones(tmp_path, family, history):
    check_history(tmp_path / "run", family, history)


@pytest.mark.parametrize("tied", [True, False])
def test_adapters_on_tied_and_untied_bases(tmp_path, tied):
    pytest.importorskip("peft")
    base = save_model(tmp_path / "base", llama_config(tie_word_embeddings=tied))
    for step in range(3):
        save_adapter(tmp_path / "run" / f"checkpoint-{step}", base, seed=step)
    assert_as_fresh(open_series(tmp_path / "run"))


def test_merged_and_adapted_checkpoints_in_one_series(tmp_path):
    """A whole model, an adapter on it, and merged weights that still have their adapter beside them."""
    pytest.importorskip("peft")
    base = save_model(tmp_path / "run" / "checkpoint-0")
    save_adapter(tmp_path / "run" / "checkpoint-10", base, seed=1)
    shutil.copytree(base, tmp_path / "run" / "checkpoint-20")
    for file in save_adapter(tmp_path / "adapter", base, seed=1).iterdir():
        shutil.copy(file, tmp_path / "run" / "checkpoint-20")
    series = open_series(tmp_path / "run")
    assert_as_fresh(series)
    logits = [checkpoint.load().model(IDS).logits for checkpoint in series]
    assert torch.equal(logits[0], logits[2])
    assert not torch.allclose(logits[0], logits[1], atol=0.1)
    assert series[0].weights_hash == series[2].weights_hash != series[1].weights_hash
    assert [(f.kind, f.checkpoints) for f in audit(series).faults if "adapter" in f.kind] == [
        ("adapter_beside", (series[2].label,))
    ]


ROPES = {
    "dynamic": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
    "longrope": {
        "rope_type": "longrope",
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "original_max_position_embeddings": 16,
        "factor": 4.0,
        "rope_theta": 10000.0,
    },
}


@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES)
def test_lengths_seen_at_one_checkpoint_do_not_reach_the_next(tmp_path, rope):
    """Rotary embeddings that depend on the length keep a state of the longest one that they met."""
    for step in range(3):
        save_model(tmp_path / "run" / f"checkpoint-{step}", llama_config(max_position_embeddings=32), seed=step)
        edit_config(tmp_path / "run" / f"checkpoint-{step}", rope_parameters=rope)
    series = open_series(tmp_path / "run")
    ids = torch.arange(40)[None]
    alone = [checkpoint.load().model(ids).logits for checkpoint in series]
    long = torch.arange(60)[None] % 64
    for loaded, wanted in zip(series.models(reuse=True), alone, strict=True):
        assert torch.equal(loaded.model(ids).logits, wanted)
        loaded.model(long)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_files_overwritten_in_place_do_not_reach_the_model(run_folder, form, reuse, dtype):
    series = open_series(run_folder)
    if form == "bin":
        for checkpoint in series:
            torch.save(load_file(checkpoint.path / "model.safetensors"), checkpoint.path / "pytorch_model.bin")
            (checkpoint.path / "model.safetensors").unlink()
    for loaded in series.models(reuse=reuse, dtype=dtype):
        before = loaded.model(IDS).logits
        for file in (*loaded.checkpoint.path.glob("model.safetensors"), *loaded.checkpoint.path.glob("*.bin")):
            with file.open("r+b") as stream:
                stream.seek(file.stat().st_size // 4)
                stream.write(bytes(file.stat().st_size // 2))
                stream.truncate(file.stat().st_size * 3 // 4)
        assert torch.equal(loaded.model(IDS).logits, before)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("step", [0, 100])
def test_a_file_that_is_replaced_under_a_loaded_model_is_noticed(run_folder, name, step):
    for loaded in open_series(run_folder).models(reuse=True):
        loaded.require_unchanged()
        if loaded.checkpoint.step == step:
            file = next(path for path in loaded.files if path.name == name)
            shutil.copy(file, file.with_suffix(".new"))
            file.with_suffix(".new").replace(file)
            with pytest.raises(
                CorruptWeights, match=rf"{name} was changed or replaced while checkpoint-{step} was in use"
            ):
                loaded.require_unchanged()


def test_a_config_cannot_name_other_weights(tmp_path):
    """Transformers loads what `transformers_weights` names, in place of the file that is hashed."""
    folder = save_model(tmp_path / "checkpoint-1")
    save_file({k: v + 1 for k, v in load_file(folder / "model.safetensors").items()}, folder / "other.safetensors")
    edit_config(folder, transformers_weights="other.safetensors")
    with pytest.raises(CorruptWeights, match=r"other\.safetensors"):
        open_checkpoint(folder).load()


def test_a_bias_that_the_config_leaves_no_place_for_is_refused(tmp_path):
    folder = save_model(tmp_path / "checkpoint-1", llama_config(attention_bias=True))
    edit_config(folder, attention_bias=False)
    with pytest.raises(CorruptWeights, match=r"8 tensors that its config leaves no place for, .*k_proj\.bias"):
        open_checkpoint(folder).load()


def test_what_generates_otherwise_has_another_config_hash(tmp_path):
    checkpoint = open_checkpoint(save_model(tmp_path / "checkpoint-1"))
    before = checkpoint.config_hash
    path = checkpoint.path / "generation_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"transformers_version": "0", "use_cache": True}, indent=7))
    assert checkpoint.config_hash == before
    path.write_text(json.dumps(settings | {"repetition_penalty": 1.3}))
    assert checkpoint.config_hash != before


def infix(name):
    return name.replace("layers.0.", "layers.0._orig_mod.")


WRAPPINGS = {
    "compiled": lambda name: f"_orig_mod.{name}",
    "data parallel": lambda name: f"module.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "one layer": infix,
}


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_names_that_wrappers_left_are_read_and_said(tmp_path, caplog, wrap, form):
    for step in range(2):
        folder = save_model(tmp_path / "run" / f"checkpoint-{step}", seed=step)
        shutil.copytree(folder, tmp_path / "plain" / folder.name)
        wrapped = {wrap(name): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
        if form == "bin":
            (folder / "model.safetensors").unlink()
            torch.save(wrapped, folder / "pytorch_model.bin")
        else:
            save_file(wrapped, folder / "model.safetensors", {"format": "pt"})
    plain = open_series(tmp_path / "plain")
    for loaded, other in zip(open_series(tmp_path / "run").models(reuse=True), plain, strict=True):
        assert torch.equal(loaded.model(IDS).logits, other.load().model(IDS).logits)
    assert ("named by a wrapper of the model" in caplog.text) is (form == "safetensors")


def test_a_tensor_under_its_own_and_a_wrapped_name_is_refused(tmp_path):
    folder = save_model(tmp_path / "checkpoint-1")
    rewrite(folder, lambda held: held.update({"_orig_mod.lm_head.weight": held["lm_head.weight"] + 1}))
    with pytest.raises(CorruptWeights, match=r"holds 'lm_head\.weight' twice"):
        open_checkpoint(folder).load()


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "fp8", "of its own"])
def test_a_leftover_quantisation_config_is_called_what_it_is(tmp_path, method):
    folder = save_model(tmp_path / "checkpoint-1")
    edit_config(folder, quantization_config={"quant_method": method, "load_in_4bit": True, "bits": 4})
    with pytest.raises(CorruptWeights, match=r"says that its weights are quantised .* plain F32: a leftover"):
        open_checkpoint(folder).load()


@pytest.mark.parametrize("reuse", [False, True])
def test_weights_in_whole_numbers_without_a_quantisation_are_refused(tmp_path, reuse):
    for step in (1, 2):
        save_model(tmp_path / f"checkpoint-{step}", seed=step)
    name = "model.layers.0.self_attn.q_proj.weight"
    rewrite(tmp_path / "checkpoint-2", lambda held: held.update({name: (100 * held[name]).to(torch.int8)}))
    with pytest.raises(CorruptWeights, match=rf"holds '{name}' in whole numbers \(I8\), but its config"):
        list(open_series(tmp_path).models(reuse=reuse))
