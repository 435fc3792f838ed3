"""Reading a tokenizer from its files, with no network and no code of theirs unless that is allowed."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.errors import DriftError, is_failure
from checkpoints.files.configs import CONFIG_FILE
from checkpoints.files.folder import TOKENIZER_PARTS, code_files, is_marked, view
from checkpoints.files.trust import ALLOWED
from checkpoints.tokenizers.limits import require_possible_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

PARTS = (*TOKENIZER_PARTS, CONFIG_FILE)


def read_tokenizer(folder: Path, *, gguf: str | None = None, code: bool = False) -> "PreTrainedTokenizerBase":
    """The tokenizer that transformers makes of a folder's files, or of a GGUF file in it.

    Args:
        folder: where its files lie.
        gguf: name of the GGUF file that holds it.
        code: whether code that it brings may run.

    Raises:
        DriftError: it cannot be loaded.
    """
    if gguf is None:
        require_possible_tokenizer(folder)
    try:
        found = _read(folder, gguf, code=code)
    except DriftError:
        raise
    except BaseException as error:
        if not is_failure(error):
            raise
        text = " ".join(str(error).split())[:300]
        if "trust_remote_code" in str(error):
            raise DriftError(
                f"the tokenizer in {folder} needs code of its own, which is refused; where you have read that code, "
                f"allow it: {ALLOWED}={folder}"
            ) from error
        raise DriftError(f"the tokenizer in {folder} cannot be loaded: {text}; restore its files") from error
    longest = getattr(found, "model_max_length", 0)
    if not isinstance(longest, int | float):  # every text would be held against it
        raise DriftError(f"the tokenizer in {folder} has the model_max_length {longest!r:.60}, which is no number")
    _split_alike(found)
    return found


def _read(folder: Path, gguf: str | None, *, code: bool) -> "PreTrainedTokenizerBase":
    """What transformers makes of the files, those that begin with a byte-order mark shown without it."""
    from transformers import AutoTokenizer

    extra = {} if gguf is None else {"gguf_file": gguf}
    beside = [path for name in PARTS if (path := folder / name).is_file()]
    if gguf is not None or not any(map(is_marked, beside)):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=code, **extra)
    with view(folder, [*beside, *(code_files(folder) if code else ())]) as shown:
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            shown, local_files_only=True, trust_remote_code=code
        )
    found.name_or_path = str(folder)
    return found


def _split_alike(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Have a text split the same way each time: merges that are left out at random are for training."""
    model: Any = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    if getattr(model, "dropout", None):
        model.dropout = None
        logger.warning("%s leaves out merges at random (dropout), which is for training: none is left out here",
                       tokenizer.name_or_path)  # fmt: skip
