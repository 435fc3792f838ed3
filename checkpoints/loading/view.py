"""What transformers sees and says as it loads: a folder that shows a checkpoint's own files and nothing else, quietly.

Transformers applies an adapter that lies beside whole weights, loads another file where the config names one, and
takes a distributed checkpoint in the same folder first: none of that is in the hash of the files that were asked for.
"""

import codecs
import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from checkpoints.files.configs import CONFIG_FILE, neutral, read_json
from checkpoints.files.reading import decode, read_bytes


@contextmanager
def view(folder: Path, files: Iterable[Path]) -> Iterator[Path]:
    """A folder of the same name with links to some of a folder's files, for as long as the block lasts.

    What describes a model stands there without a byte-order mark, and its config without what is no part of it.
    """
    folder = folder.absolute()
    with tempfile.TemporaryDirectory(prefix="circuit-drift-") as place:
        shown = Path(place) / (folder.name or "checkpoint")
        for file in files:
            link = shown / file.absolute().relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            if file.name == CONFIG_FILE:
                link.write_text(json.dumps(neutral(read_json(file))), encoding="utf-8")
            elif file.suffix == ".json" and _is_marked(file):
                link.write_text(decode(read_bytes(file)), encoding="utf-8")
            else:
                _link(link, file.resolve())
        yield shown


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' progress bars and load reports; what they would warn of is checked here."""
    from transformers.utils import logging

    hf_logging: Any = logging
    bars, level = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def _is_marked(file: Path) -> bool:
    """Whether a file begins with a byte-order mark, which transformers takes for damage."""
    with file.open("rb") as opened:
        return opened.read(3).startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))


def _link(link: Path, file: Path) -> None:
    try:
        link.symlink_to(file)
    except OSError:  # not every user of Windows may make symbolic links
        link.hardlink_to(file)
