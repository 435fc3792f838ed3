"""Reading a tokenizer from its files, with no network and no code of theirs unless that is allowed."""

from pathlib import Path
from typing import TYPE_CHECKING

from checkpoints.errors import DriftError, is_failure
from checkpoints.files.trust import ALLOWED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def read_tokenizer(folder: Path, *, gguf: str | None = None, code: bool = False) -> "PreTrainedTokenizerBase":
    """The tokenizer that transformers makes of a folder's files, or of a GGUF file in it.

    Args:
        folder: where its files lie.
        gguf: name of the GGUF file that holds it.
        code: whether code that it brings may run.

    Raises:
        DriftError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    extra = {} if gguf is None else {"gguf_file": gguf}
    try:
        found = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=code, **extra)
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
    return found
