"""The tokenizer that a measure asks with."""

from typing import TYPE_CHECKING

from checkpoints import Checkpoint
from checkpoints.errors import BadPrompt
from checkpoints.loading.load import LoadedModel, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokenizer_of(source: LoadedModel | Checkpoint) -> "PreTrainedTokenizerBase":
    """The tokenizer of a loaded model, or of a checkpoint whose weights are left where they are.

    Raises:
        BadPrompt: there is none, so no prompt can be built.
    """
    tokenizer = load_tokenizer(source) if isinstance(source, Checkpoint) else source.tokenizer
    if tokenizer is None:
        checkpoint = source if isinstance(source, Checkpoint) else source.checkpoint
        folders = ", ".join(str(folder) for folder in checkpoint.tokenizer_folders)
        raise BadPrompt(f"{checkpoint.name} has no tokenizer; looked in {folders}: put tokenizer.json there")
    return tokenizer
