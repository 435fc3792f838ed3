"""A folder that shows a checkpoint's own files and nothing else, for libraries that look around where they load.

Transformers applies an adapter that lies beside whole weights, loads another file where the config names one, and
takes a distributed checkpoint in the same folder first: none of that is in the hash of the files that were asked for.
"""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def view(folder: Path, files: Iterable[Path]) -> Iterator[Path]:
    """A folder of the same name with links to some of a folder's files, for as long as the block lasts."""
    folder = folder.absolute()
    with tempfile.TemporaryDirectory(prefix="circuit-drift-") as place:
        shown = Path(place) / (folder.name or "checkpoint")
        for file in files:
            link = shown / file.absolute().relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            _link(link, file.resolve())
        yield shown


def _link(link: Path, file: Path) -> None:
    try:
        link.symlink_to(file)
    except OSError:  # not every user of Windows may make symbolic links
        link.hardlink_to(file)
