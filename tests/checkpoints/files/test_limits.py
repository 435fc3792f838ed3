"""Files that promise more than they are, never end, or nest without end: one line, in the time their size deserves."""

import json
import os
import signal
import time

import pytest
import torch

from checkpoints import DriftError, open_checkpoint, open_series
from checkpoints.audit import audit
from checkpoints.errors import CorruptWeights
from checkpoints.files.limits import require_bounded_pattern, require_possible
from tests.checkpoints.conftest import edit_config, gpt2_config, save_model, save_tokenizer
from tests.checkpoints.loading.test_formats import save_adapter


@pytest.fixture
def folder(tmp_path):
    return save_tokenizer(save_model(tmp_path / "run" / "checkpoint-1"))


@pytest.fixture(autouse=True)
def soon():
    """Whatever would wait without end is interrupted; what takes long is told."""

    def late(*_):
        raise AssertionError("it did not end")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(30)
    started = time.monotonic()
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < 20


def pipe(path):
    os.mkfifo(path)


def endless(path):
    path.symlink_to("/dev/zero")


def directory(path):
    path.mkdir()


NAMES = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [pipe, endless, directory])
def test_what_is_no_regular_file_is_refused(folder, name, make):
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    checkpoint = open_checkpoint(folder)
    with pytest.raises(DriftError, match=name.partition(".")[0]):
        checkpoint.load()
    audit(open_series(folder.parent))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.gguf", "model.safetensors.index.json"])
@pytest.mark.parametrize("make", [pipe, endless])
def test_other_formats_too(folder, name, make):
    (folder / "model.safetensors").unlink()
    make(folder / name)
    with pytest.raises(DriftError):
        open_checkpoint(folder).load()
    with pytest.raises(DriftError):
        _ = open_checkpoint(folder).weights_hash


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize(
    ("field", "value"),
    [("num_hidden_layers", 10**6), ("num_hidden_layers", 5000), ("head_dim", 10**9), ("vocab_size", 10**12)],
)
def test_a_config_that_the_files_cannot_fill_is_refused_before_it_is_built(folder, form, field, value):
    if form == "bin":
        from safetensors.torch import load_file

        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    edit_config(folder, **{field: value}, layer_types=None)
    with pytest.raises(CorruptWeights, match=rf"asks for {field} {value:,}, but the weight files hold [\d,]+ "):
        open_checkpoint(folder).load()


def test_a_part_of_a_config_is_held_to_the_same(tmp_path):
    with pytest.raises(CorruptWeights, match="num_hidden_layers 100, but the weight files hold 20 tensors"):
        require_possible({"text_config": {"num_hidden_layers": 100}}, tensors=20, size=1000, folder=tmp_path)


HEADERS = {
    "nested": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "beyond a float": b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1e999]}}',
    "shape beyond a float": b'{"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 4]}}',
    "no number": b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 4]}}',
    "digits": b'{"a": {"dtype": "F32", "shape": [' + b"9" * 10_000 + b'], "data_offsets": [0, 4]}}',
    "product": b'{"a": {"dtype": "F32", "shape": [9223372036854775807, 9223372036854775807], "data_offsets": [0, 4]}}',
    "negative": b'{"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}',
    "shared bytes": b'{"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},'
    b' "b": {"dtype": "U8", "shape": [2], "data_offsets": [2, 4]}}',
    "bytes of nobody": b'{"a": {"dtype": "U8", "shape": [2], "data_offsets": [2, 4]}}',
    "text": b'{"a": {"dtype": "F32", "shape": "1", "data_offsets": "04"}}',
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_hostile_headers_are_one_line(folder, header):
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(CorruptWeights, match=r"model\.safetensors is") as caught:
        open_checkpoint(folder).load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 50_000, '{"num_hidden_layers": 1e999}', "9" * 10_000])
def test_hostile_configs_are_one_line(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(DriftError, match=r"config\.json") as caught:
        open_checkpoint(folder).load()
    assert "\n" not in str(caught.value)


def test_a_negative_or_textual_number_of_layers_is_one_line(folder):
    for value in (-1, "many", None, [2]):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": value, "layer_types": None}))
        with pytest.raises(DriftError) as caught:
            open_checkpoint(folder).load()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize(
    "changes", [{"intermediate_size": 400_000}, {"hidden_size": 4096, "intermediate_size": 11_008}]
)
def test_a_model_larger_than_its_files_is_refused_before_it_takes_memory(folder, form, changes, monkeypatch):
    if form == "bin":
        from safetensors.torch import load_file

        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    edit_config(folder, **changes)
    monkeypatch.setattr("checkpoints.files.limits.WIDTHS", ())  # what each width alone refuses is tried above
    monkeypatch.setattr(
        "transformers.AutoModelForCausalLM.from_pretrained", lambda *_, **__: pytest.fail("it was built")
    )
    with pytest.raises(CorruptWeights, match=r"asks for a model of [\d,]{10,} parameters, but the weight files"):
        open_checkpoint(folder).load()


def test_learned_positions_count_too(tmp_path):
    folder = save_model(tmp_path / "checkpoint-1", gpt2_config())
    edit_config(folder, n_positions=10**12)
    with pytest.raises(CorruptWeights, match="asks for a model of 32,000,000,0"):
        open_checkpoint(folder).load()


ADAPTERS = {
    "rank": ({"r": 10**9}, "asks for r 1,000,000,000, but its weight file has"),
    "rank of a module": ({"rank_pattern": {"q_proj": 10**9}}, "asks for q_proj 1,000,000,000"),
    "virtual tokens": ({"num_virtual_tokens": 10**9}, "asks for num_virtual_tokens 1,000,000,000"),
    "copies of layers": (
        {"layer_replication": [[0, 1]] * 3000},
        r"asks for 3,000 layers \(layer_replication\), but holds",
    ),
    "search": ({"target_modules": "((([a-z._0-9])+)+)+!"}, "whose search may never end"),
    "search by rank": ({"rank_pattern": {"(.|a)*!": 4}}, "whose search may never end"),
    "scale": ({"lora_alpha": 1e308}, "cannot be merged into its base model"),
}


@pytest.mark.parametrize(("changes", "told"), ADAPTERS.values(), ids=ADAPTERS)
def test_an_adapter_that_asks_for_more_than_its_file_can_be_is_refused(tmp_path, folder, changes, told):
    pytest.importorskip("peft")
    adapter = save_adapter(tmp_path / "adapted" / "checkpoint-2", folder)
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(CorruptWeights, match=told) as caught:
        open_checkpoint(adapter).load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "pattern",
    ["all-linear", r".*\.(q_proj|v_proj)$", r"^(?:(?!vision_tower).)*\.(?:q|k)_proj", r"(q|k)_proj.*", r"\(a+\)+",
     "[(+*]+x",
     r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|k_proj).*?)", r"model\.layers\.(?:\d+)\.mlp\..*"],
)  # fmt: skip
def test_patterns_that_people_write_are_taken(tmp_path, pattern):
    require_bounded_pattern(pattern, tmp_path)


@pytest.mark.parametrize("pattern", ["(.+)+x", "((([a-z._0-9])+)+)+!", "(a|a)*b", "(a|b){3}", "(?:a+)*b", ".*" * 6])
def test_patterns_whose_search_may_never_end_are_refused(tmp_path, pattern):
    with pytest.raises(CorruptWeights, match="whose search may never end"):
        require_bounded_pattern(pattern, tmp_path)
