"""Training that is sharded over two processes (FSDP2) is probed by a whole copy, which is the plain model's bits."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from checkpoints import DriftError
from checkpoints.errors import CheckpointMismatch
from circuit_drift.training import WholeCopy
from circuit_drift.training.live import hash_weights
from tests.lab.sharded_trainings import PROCESSES, SIZES, in_all_processes, sharded_model, step, tied_model


def gather(rank: int, folder: Path) -> None:
    """Train one step, and write what was gathered before and after it."""
    with sharded_model(rank, folder) as model:
        whole, found = WholeCopy(model.config), []
        for after in (False, True):
            if after:
                step(model)
            copy = whole.of(model)
            found.append(None if copy is None else {name: value.clone() for name, value in copy.state_dict().items()})
            if copy is not None:
                assert not copy.training and copy.lm_head.weight is copy.model.embed_tokens.weight
        other = LlamaConfig(vocab_size=32, **{**SIZES, "num_hidden_layers": 1})
        try:
            refused = str(WholeCopy(other).of(model))
        except CheckpointMismatch as error:
            refused = str(error)
        torch.save({"found": found, "refused": refused}, folder / f"{rank}.pt")


def test_the_whole_copy_of_a_sharded_model_is_the_plain_model_before_and_after_a_step(tmp_path):
    in_all_processes(gather, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(PROCESSES))
    assert second["found"] == [None, None], "the first process alone holds a copy"
    before, after = first["found"]
    plain = tied_model()
    copy = tied_model(seed=1)
    copy.load_state_dict(before)
    assert hash_weights(copy) == hash_weights(plain)
    step(plain)
    torch.testing.assert_close(after, dict(plain.state_dict()))
    assert "not those of its config" in first["refused"] and second["refused"] == "None"


def test_without_a_group_of_processes_there_is_nothing_to_gather():
    with pytest.raises(DriftError, match="init_process_group"):
        WholeCopy(tied_model().config).of(tied_model())
