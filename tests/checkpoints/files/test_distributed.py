"""Torch distributed checkpoints: what they are read as, what they must cover, and that nothing in them runs."""

import pickle
import shutil
import warnings

import pytest
import torch
from torch.distributed.checkpoint import metadata as dcp_metadata

from checkpoints import open_checkpoint
from checkpoints.errors import CorruptWeights
from tests.checkpoints.conftest import edit_config, llama_config, save_model
from tests.checkpoints.payloads import Payload

IDS = torch.tensor([[1, 2, 3, 4, 5]])
NORM = "model.norm.weight"


@pytest.fixture
def source(tmp_path):
    return save_model(tmp_path / "source")


def logits(folder):
    with torch.no_grad():
        return open_checkpoint(folder).load().model(IDS).logits


def save(folder, source, change=lambda state: state):
    """A distributed checkpoint of a model, after a change to its state."""
    import torch.distributed.checkpoint as dcp
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        dcp.save(change(dict(model.state_dict())), checkpoint_id=folder, no_dist=True)
    shutil.copy(source / "config.json", folder)
    return folder


def edit_metadata(folder, change):
    path = folder / ".metadata"
    found = pickle.loads(path.read_bytes())
    change(found)
    path.write_bytes(pickle.dumps(found))


def test_bytes_in_place_of_a_tensor_are_not_unpickled(tmp_path, source):
    trace = tmp_path / "ran"
    folder = save(tmp_path / "step-1", source, lambda state: state | {NORM: Payload(trace)})
    with pytest.raises(CorruptWeights, match=r"holds no tensor but pickled bytes for 'model\.norm\.weight'.*refused"):
        open_checkpoint(folder).load()
    assert not trace.exists()


def test_a_tensor_whose_bytes_are_a_payload_does_not_run(tmp_path, source):
    """The metadata says tensor, its place in the file holds another pickle."""
    trace = tmp_path / "ran"
    folder = save(tmp_path / "step-1", source, lambda state: state | {"extra": Payload(trace)})

    def swap(found):
        places = {index.fqn: info for index, info in found.storage_data.items()}
        places[NORM].offset, places[NORM].length = places["extra"].offset, places["extra"].length

    edit_metadata(folder, swap)
    with pytest.raises(CorruptWeights, match=r"'model\.norm\.weight' in .* cannot be read: UnpicklingError"):
        open_checkpoint(folder).load()
    assert not trace.exists()


def test_bytes_beside_the_model_are_left_alone(tmp_path, source):
    trace = tmp_path / "ran"
    folder = save(tmp_path / "step-1", source, lambda state: {"model": state, "optim": {"lr": Payload(trace)}})
    assert torch.equal(logits(folder), logits(source))
    assert not trace.exists()


def test_a_payload_in_the_metadata_does_not_run(tmp_path, source):
    trace = tmp_path / "ran"
    folder = save(tmp_path / "step-1", source)
    edit_metadata(folder, lambda found: found.storage_data.update(trap=Payload(trace)))
    with pytest.raises(CorruptWeights, match=r"the metadata asks for \w+\.open, which no checkpoint needs: refused"):
        open_checkpoint(folder).load()
    assert not trace.exists()


def test_metadata_changes_no_class_of_torch(tmp_path, source):
    """A pickle can set attributes of the classes that it names."""
    folder = save(tmp_path / "step-1", source)
    kind = dcp_metadata.ChunkStorageMetadata
    pollution = pickle.dumps(kind, protocol=2)[:-1] + b"N}X\x08\x00\x00\x00pollutedK\x01s\x86b."
    (folder / ".metadata").write_bytes(pollution)
    with pytest.raises(CorruptWeights, match="cannot be read"):
        open_checkpoint(folder).load()
    assert not hasattr(kind, "polluted")


def cover_less(found):
    found.state_dict_metadata[NORM].chunks[0].sizes = torch.Size([31])


def cover_nothing(found):
    found.state_dict_metadata[NORM].chunks.clear()


def cover_one_part_twice(found):
    entry = found.state_dict_metadata[NORM]
    half = dcp_metadata.ChunkStorageMetadata(torch.Size([0]), torch.Size([16]))
    entry.chunks[:] = [half, half]


@pytest.mark.parametrize(("change", "left"), [(cover_less, 1), (cover_nothing, 32), (cover_one_part_twice, 16)])
def test_a_tensor_that_is_not_covered_is_refused(tmp_path, source, change, left):
    folder = save(tmp_path / "step-1", source)
    edit_metadata(folder, change)
    with pytest.raises(CorruptWeights, match=rf"does not cover 'model\.norm\.weight': {left} of its 32 values"):
        open_checkpoint(folder).load()


@pytest.mark.parametrize("place", ["../step-2/__0_0.distcp", "/etc/hostname", "other.bin"])
def test_parts_outside_the_hashed_files_are_refused(tmp_path, source, place):
    folder = save(tmp_path / "step-1", source)
    edit_metadata(folder, lambda found: [setattr(v, "relative_path", place) for v in found.storage_data.values()])
    with pytest.raises(CorruptWeights, match="points outside its own"):
        open_checkpoint(folder).load()


def test_a_part_behind_the_end_of_its_file_is_refused(tmp_path, source):
    folder = save(tmp_path / "step-1", source)
    edit_metadata(folder, lambda found: [setattr(v, "length", 10**9) for v in found.storage_data.values()])
    with pytest.raises(CorruptWeights, match=r"is truncated: it has \d+ bytes, the metadata promises 1\d{9}"):
        open_checkpoint(folder).load()


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod.", "model.module."])
def test_names_that_wrappers_left_are_read(tmp_path, source, prefix):
    def wrap(state):
        return {prefix + name: tensor for name, tensor in state.items()}

    folder = save(tmp_path / "step-1", source, wrap)
    assert torch.equal(logits(folder), logits(source))


def test_layers_that_the_config_lacks_are_refused(tmp_path, source):
    folder = save(tmp_path / "step-1", source)
    edit_config(folder, num_hidden_layers=1, layer_types=None)
    with pytest.raises(CorruptWeights, match=r"9 tensors that its config\.json leaves no place for.*layers\.1"):
        open_checkpoint(folder).load()


def test_a_head_trained_apart_from_the_embedding_it_is_tied_to_is_refused(tmp_path):
    tied = save_model(tmp_path / "tied", llama_config(tie_word_embeddings=True))
    folder = save(tmp_path / "step-1", tied, lambda state: state | {"lm_head.weight": state["lm_head.weight"] + 1})
    with pytest.raises(CorruptWeights, match=r"holds two different tensors for .*tie_word_embeddings"):
        open_checkpoint(folder).load()
    same = save(tmp_path / "step-2", tied)
    with torch.no_grad():
        assert torch.equal(
            open_checkpoint(same).load().model(IDS).logits, open_checkpoint(tied).load().model(IDS).logits
        )


def test_a_config_of_more_layers_than_tensors_is_refused_before_it_is_built(tmp_path, source):
    folder = save(tmp_path / "step-1", source)
    edit_config(folder, num_hidden_layers=10**6, layer_types=None)
    with pytest.raises(CorruptWeights, match="num_hidden_layers 1,000,000, but the weight files hold 21 tensors"):
        open_checkpoint(folder).load()


def test_the_metadata_is_part_of_what_is_hashed(tmp_path, source):
    folder = save(tmp_path / "step-1", source)
    before = open_checkpoint(folder).weights_hash
    edit_metadata(folder, lambda found: setattr(found, "planner_data", {"other": ("other",)}))
    assert open_checkpoint(folder).weights_hash != before


def test_the_payload_would_run_where_it_is_unpickled(tmp_path):
    """What the tests above rely on."""
    trace = tmp_path / "ran"
    pickle.loads(pickle.dumps(Payload(trace))).close()
    assert trace.exists()
