"""A model in training as the `LoadedModel` that measures take, identified by the weights it has at that moment."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from checkpoints import Checkpoint
from checkpoints.files.configs import hash_config
from checkpoints.loading.load import LoadedModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class LiveCheckpoint(Checkpoint):
    """A checkpoint that was never written: no files, its hashes taken from memory.

    Its weights hash is that of the tensors themselves, so a checkpoint saved at the same step has another one.

    Attributes:
        weights: sha256 over the names and values of parameters and persistent buffers.
        shape: sha256 of the config.
        words: sha256 of the tokenizer, if there is one.
    """

    weights: str = ""
    shape: str = ""
    words: str | None = None

    @property
    def weights_hash(self) -> str:
        """Of the tensors in memory."""
        return self.weights

    @property
    def config_hash(self) -> str:
        """Of the config in memory."""
        return self.shape

    @property
    def tokenizer_hash(self) -> str | None:
        """Of the tokenizer in memory."""
        return self.words

    @property
    def code_hash(self) -> None:
        """The class of a model in memory is not known by the files of its code."""
        return None


def live_model(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase | None",
    *,
    step: int,
    tokens: int | None = None,
    stage: str | None = None,
    words: str | None = None,
) -> LoadedModel:
    """A handle on a live model; nothing is copied, and the model must be lent (`quiet.undisturbed`).

    Args:
        model: the plain transformers model, unwrapped.
        tokenizer: its tokenizer.
        step: optimizer steps taken.
        tokens: tokens seen.
        stage: of the training.
        words: the tokenizer's hash (`hash_tokenizer`), where it is known already.
    """
    checkpoint = LiveCheckpoint(
        path=Path(f"checkpoint-{step}"),
        name=f"checkpoint-{step}",
        step=step,
        tokens=tokens,
        stage=stage,
        weights=hash_weights(model),
        shape=hash_config(json.loads(model.config.to_json_string())),
        words=words or (hash_tokenizer(tokenizer) if tokenizer is not None else None),
    )
    weight = next(model.parameters())
    dtype = str(weight.dtype).removeprefix("torch.")
    attention = str(model.config._attn_implementation)
    return LoadedModel(checkpoint, str(weight.device), dtype, attention, [(model, tokenizer)])


def hash_weights(model: "PreTrainedModel") -> str:
    """Sha256 over the names and bytes of everything a checkpoint of the model would hold."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def hash_tokenizer(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Sha256 over the vocabulary and, for a fast tokenizer, all of its rules."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(content.encode()).hexdigest()
