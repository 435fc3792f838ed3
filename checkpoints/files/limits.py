"""Bounds that come from the files' own sizes: what a file promises is held against what it can hold, before it is used.

A config of a million layers beside a file of fifty tensors, an archive that unpacks to more than it is, or a pipe in
place of a file would otherwise take time and memory without end.
"""

import re
import stat
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from checkpoints.errors import CorruptWeights, NotACheckpoint

_SMALLEST_ENTRY = 16  # bytes: a tensor's name, storage and shape take more than that in a pickle
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
WIDTHS = (
    "vocab_size", "hidden_size", "n_embd", "d_model", "intermediate_size", "n_inner", "ffn_dim", "head_dim",
    "num_attention_heads", "n_head", "num_heads", "num_key_value_heads",
    "num_local_experts", "num_experts", "n_routed_experts",
)  # fmt: skip


def require_file(path: Path) -> None:
    """Refuse what is there and no regular file: a pipe, a device or a socket may never end.

    Raises:
        NotACheckpoint: it is something else; nothing where there is nothing.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode):
        kind = next((name for name, test in _KINDS.items() if test(mode)), "no regular file")
        raise NotACheckpoint(f"{path} is {kind}, not a regular file; put the file itself there")


_KINDS = {
    "a folder": stat.S_ISDIR,
    "a pipe": stat.S_ISFIFO,
    "a device": lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode),
    "a socket": stat.S_ISSOCK,
}


def require_plain_archive(source: Path | IO[bytes], size: int, name: str) -> None:
    """Refuse a torch archive whose entries take more than the file: torch never compresses them.

    Args:
        source: the archive.
        size: bytes that it takes.
        name: what to call it.

    Raises:
        CorruptWeights: it is no archive, or one of its entries is compressed or larger than the archive.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise CorruptWeights(f"{name} is truncated or damaged: {error}; restore the file") from error
    odd = next((entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED), None)
    if odd is not None:
        raise CorruptWeights(f"{name} holds a compressed entry, {odd.filename!r}, which torch never writes: refused")
    if sum(entry.file_size for entry in entries) > size:
        raise CorruptWeights(f"{name} promises more than its {size} bytes; restore the file")


def check_pickles(files: Sequence[Path]) -> None:
    """Refuse what is no file of `torch.save`, and archives that would unpack to more than they are.

    Raises:
        CorruptWeights: names the file.
    """
    for file in files:
        check_not_empty([file])
        with file.open("rb") as stream:
            magic = stream.read(2)
        if magic == b"PK":
            require_plain_archive(file, file.stat().st_size, str(file))
        if magic not in (b"PK", b"\x80\x02"):
            raise CorruptWeights(f"{file} is no PyTorch weight file (it starts with {magic!r}); restore the file")


def count_pickled(files: Sequence[Path]) -> int:
    """How many tensors files of `torch.save` can hold at most."""
    return sum(map(_pickle_size, files)) // _SMALLEST_ENTRY


def check_not_empty(files: Sequence[Path]) -> None:
    """Refuse files of no bytes, and what is no regular file.

    Raises:
        CorruptWeights: names the file.
    """
    for file in files:
        require_file(file)
        if file.stat().st_size == 0:
            raise CorruptWeights(f"{file} is empty (0 bytes); restore the file")


def _pickle_size(file: Path) -> int:
    """Bytes of a `.bin` file's pickle; all of them where it is of the format before archives."""
    if not zipfile.is_zipfile(file):
        return file.stat().st_size
    with zipfile.ZipFile(file) as archive:
        return sum(entry.file_size for entry in archive.infolist() if entry.filename.endswith("data.pkl"))


def require_possible(config: Mapping[str, Any], *, tensors: int, size: int, folder: Path) -> None:
    """Refuse a config whose model the weight files cannot fill, before it is built.

    Args:
        config: the content of config.json; parts of it may be configs too.
        tensors: how many tensors the files hold at most; every layer needs one.
        size: bytes of the files; every width is that of some tensor.
        folder: the checkpoint, for the message.

    Raises:
        CorruptWeights: names the field, its value and the bound.
    """
    for part in (config, *(value for value in config.values() if isinstance(value, Mapping))):
        for names, bound, held in ((LAYERS, tensors, "tensors"), (WIDTHS, size, "bytes")):
            for name in names:
                value = part.get(name)
                if isinstance(value, int | float) and value > bound:
                    raise CorruptWeights(
                        f"{folder / 'config.json'} asks for {name} {value:,}, but the weight files hold {bound:,} "
                        f"{held}: config.json and weights belong to different models"
                    )


_SEARCHES = 5
_ESCAPED, _CLASS = r"\\.", r"\[\^?\]?(?:\\.|[^\]\\])*\]"
_TOKEN = re.compile(rf"{_ESCAPED}|{_CLASS}|\(|\)|\||[*+]|\{{\d*,?\d*\}}", re.DOTALL)


def require_bounded_pattern(pattern: str, source: Path) -> None:
    """Refuse a regular expression whose search may take time beyond all bounds.

    That is one that repeats a group which itself repeats or offers a choice, or that has many repeats in a row.

    Raises:
        CorruptWeights: shows the pattern.
    """
    repeats, groups = 0, [False]  # whether a group, from the outermost in, holds a repeat or a choice
    closed = -1  # where a group that holds one ended
    for found in _TOKEN.finditer(pattern):
        token = found[0]
        if token == "(":
            groups.append(False)
        elif token == ")" and len(groups) > 1:
            if groups.pop():
                groups[-1], closed = True, found.end()
        elif token == "|":
            groups[-1] = True
        elif token in ("*", "+") or token.startswith("{"):
            repeats += 1
            groups[-1] = True
            if closed == found.start() or repeats > _SEARCHES:
                raise CorruptWeights(
                    f"{source} has the pattern {pattern!r:.200}, whose search may never end: write it without repeats "
                    f"of repeats or of choices, with at most {_SEARCHES} in all"
                )
