"""Formats that can carry code, each with a payload that would leave a file behind: it does not run."""

import json
import pickle
import shutil
import struct
import sys

import pytest
import torch

import circuits
from checkpoints import DriftError, open_checkpoint, open_series
from checkpoints.audit import audit
from checkpoints.errors import CorruptWeights, StoreError, UnsupportedArchitecture
from checkpoints.files.states import read_state
from tests.checkpoints.conftest import edit_config, save_model, save_tokenizer
from tests.checkpoints.loading.test_formats import save_adapter
from tests.checkpoints.payloads import Payload

IDS = torch.tensor([[1, 2, 3]])
STATES = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "training_state.pt", "scaler.pt")


@pytest.fixture
def trace(tmp_path):
    """What a payload would create; it is checked at the end of every test."""
    path = tmp_path / "ran"
    yield path
    assert not path.exists()


@pytest.fixture
def folder(tmp_path):
    return save_tokenizer(save_model(tmp_path / "run" / "checkpoint-1"))


def python_that_leaves(trace):
    return f"open({str(trace)!r}, 'w').close()\n"


def archived(trace, path):
    torch.save({"lm_head.weight": Payload(trace)}, path)


def before_archives(trace, path):
    path.write_bytes(pickle.dumps({"lm_head.weight": Payload(trace)}, protocol=2))


@pytest.mark.parametrize("write", [archived, before_archives])
def test_bin_weights(folder, trace, write):
    (folder / "model.safetensors").unlink()
    write(trace, folder / "pytorch_model.bin")
    with pytest.raises(CorruptWeights):
        open_checkpoint(folder).load()


def test_an_archive_that_unpacks_to_more_than_it_is(folder, trace):
    import zipfile

    (folder / "model.safetensors").unlink()
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Payload(trace)) + bytes(10**7))
    with pytest.raises(CorruptWeights, match=r"compressed entry, 'archive/data\.pkl'.*refused"):
        open_checkpoint(folder).load()


def test_states_of_trainers_beside_the_weights_are_not_read(folder, trace):
    for name in STATES:
        archived(trace, folder / name)
    for loaded in open_series(folder.parent).models(reuse=True):
        loaded.model(IDS)
    assert audit(open_series(folder.parent), depth="weights").status == 0


@pytest.mark.parametrize("write", [archived, before_archives])
def test_our_own_training_states(tmp_path, trace, write):
    path = tmp_path / "training_state.pt"
    write(trace, path)
    with pytest.raises(StoreError, match="cannot go on from"):
        read_state(path)
    torch.save({"step": 3, "optimizer": {"state": {0: {"step": torch.tensor(2.0)}}}}, path)
    assert read_state(path)["optimizer"]["state"][0]["step"] == 2


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.safetensors"])
def test_adapter_weights(tmp_path, folder, trace, name):
    adapter = save_adapter(tmp_path / "adapted" / "checkpoint-2", folder)
    (adapter / "adapter_model.safetensors").unlink()
    archived(trace, adapter / name)
    with pytest.raises(CorruptWeights):
        open_checkpoint(adapter).load()


def test_a_module_that_an_adapter_names(tmp_path, folder, trace, monkeypatch):
    pytest.importorskip("peft")
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "hostile_core.py").write_text(python_that_leaves(trace))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    adapter = save_adapter(tmp_path / "adapted" / "checkpoint-2", folder)
    path = adapter / "adapter_config.json"
    named = {"megatron_config": {"tensor_model_parallel_size": 1}, "megatron_core": "hostile_core"}
    path.write_text(json.dumps(json.loads(path.read_text()) | named))
    with pytest.raises(DriftError, match=r"peft import a module that it names.*refused"):
        open_checkpoint(adapter).load()
    assert "hostile_core" not in sys.modules


AUTO_MAP = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own", "AutoTokenizer": ["own.Own", "own.Own"]}


@pytest.mark.parametrize("model_type", ["llama", "unheard_of"])
def test_code_that_a_config_names(folder, trace, model_type):
    (folder / "own.py").write_text(python_that_leaves(trace) + "class Own: pass\n")
    (folder / "generate.py").write_text(python_that_leaves(trace) + "def generate(*a, **k): pass\n")
    (folder / "custom_generate").mkdir()
    shutil.copy(folder / "generate.py", folder / "custom_generate")
    edit_config(folder, auto_map=AUTO_MAP, model_type=model_type)
    if model_type == "llama":  # transformers has it: its own code is not needed
        open_checkpoint(folder).load().model(IDS)
    else:
        with pytest.raises(UnsupportedArchitecture, match="refused"):
            open_checkpoint(folder).load()


@pytest.mark.parametrize("name", ["_attn_implementation", "attn_implementation", "_experts_implementation"])
def test_kernels_that_a_config_names(folder, trace, name):
    edit_config(folder, **{name: "hostile/kernels"})
    with pytest.raises(UnsupportedArchitecture, match=f"from elsewhere, {name} 'hostile/kernels': refused"):
        open_checkpoint(folder).load()


def test_code_of_another_repository_is_not_what_the_user_allowed(folder, trace, monkeypatch):
    monkeypatch.setenv("CIRCUIT_DRIFT_ALLOW_CODE", str(folder))
    edit_config(folder, auto_map={"AutoModelForCausalLM": "hostile/repository--own.Own"}, model_type="unheard_of")
    with pytest.raises(UnsupportedArchitecture, match="asks for code from elsewhere, auto_map"):
        open_checkpoint(folder).load()


def test_code_of_a_tokenizer(folder, trace):
    (folder / "own.py").write_text(python_that_leaves(trace) + "class Own: pass\n")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": AUTO_MAP, "tokenizer_class": "Own"}))
    with pytest.raises(DriftError, match=f"code of its own, which is refused.*CIRCUIT_DRIFT_ALLOW_CODE={folder}"):
        open_checkpoint(folder).load()


def test_a_chat_template_is_rendered_by_nobody_and_sandboxed_where_a_user_does(folder, trace):
    from jinja2.exceptions import SecurityError

    reach = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    call = "{{ cycler.__init__.__globals__.os.system('touch " + str(trace) + "') }}"
    for template in (reach, call):
        (folder / "chat_template.jinja").write_text(template)
        tokenizer = open_checkpoint(folder).load().tokenizer
        facts = [circuits.Fact(clean="a", corrupt="b", answer="c", wrong="a")]
        circuits.tokenize_facts(tokenizer, facts)
        with pytest.raises(SecurityError):
            tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)


def gguf_string(text):
    return struct.pack("<Q", len(text)) + text


def test_gguf_metadata(tmp_path, trace):
    """Strings alone can be in it; one that is a pickle, and one that is a template."""
    entries = {b"general.architecture": b"llama", b"tokenizer.chat_template": b"{{ ''.__class__.__mro__ }}",
               b"payload": pickle.dumps(Payload(trace))}  # fmt: skip
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    body = b"".join(gguf_string(key) + struct.pack("<I", 8) + gguf_string(value) for key, value in entries.items())
    (folder / "model.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries)) + body)
    with pytest.raises(DriftError):
        open_checkpoint(folder).load()
