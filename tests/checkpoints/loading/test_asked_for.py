"""What a config and a header ask for beyond the weights: switches that we decide, tensors that no model has."""

import json

import pytest
import torch

from checkpoints import open_checkpoint
from checkpoints.errors import CorruptWeights
from tests.checkpoints.conftest import edit_config, save_model

SWITCHED = {
    "return_dict": False, "use_return_dict": False, "output_attentions": True, "output_hidden_states": True,
    "use_cache": False, "torchscript": True, "gradient_checkpointing": True,
    "_attn_implementation": "flash_attention_2", "num_labels": 10**9, "problem_type": "nonsense",
}  # fmt: skip
IDS = torch.arange(9)[None]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("plain") / "checkpoint-1")


def copy(plain, tmp_path):
    folder = tmp_path / plain.name
    folder.mkdir()
    for file in plain.iterdir():
        (folder / file.name).symlink_to(file)
    text = (plain / "config.json").read_text()
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(text)
    return folder


@pytest.mark.parametrize("name", SWITCHED)
def test_what_a_config_asks_of_a_forward_pass_is_decided_here(plain, tmp_path, name):
    folder = copy(plain, tmp_path)
    edit_config(folder, **{name: SWITCHED[name]})
    found = open_checkpoint(folder).load().model(IDS, use_cache=False)
    assert torch.equal(found.logits, open_checkpoint(plain).load().model(IDS, use_cache=False).logits)


def test_a_switch_that_trainers_turn_makes_no_other_model(plain, tmp_path):
    folder = copy(plain, tmp_path)
    edit_config(folder, use_cache=False)
    assert open_checkpoint(folder).config_hash == open_checkpoint(plain).config_hash
    edit_config(folder, hidden_act="gelu")
    assert open_checkpoint(folder).config_hash != open_checkpoint(plain).config_hash


def test_a_model_type_of_another_kind_is_one_line(plain, tmp_path):
    folder = copy(plain, tmp_path)
    edit_config(folder, model_type=[1, "a"])
    with pytest.raises(CorruptWeights, match="unhashable"):
        open_checkpoint(folder).load()


@pytest.mark.parametrize("size", [0, 1], ids=["empty", "of one value"])
def test_far_more_tensors_than_the_model_has_are_refused_before_it_is_loaded(plain, tmp_path, size, monkeypatch):
    monkeypatch.setattr(
        "transformers.AutoModelForCausalLM.from_pretrained", lambda *_, **__: pytest.fail("it was loaded")
    )
    folder = copy(plain, tmp_path)
    content = (plain / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    places = [len(data) + size * place for place in range(3001)]
    more = {f"x.{i}": {"dtype": "U8", "shape": [size], "data_offsets": [places[i], places[i + 1]]} for i in range(3000)}
    text = json.dumps(header | more).encode()
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data + bytes(3000 * size))
    with pytest.raises(CorruptWeights, match=r"hold 3,0\d\d tensors, but the model that config.json asks for"):
        open_checkpoint(folder).load()
