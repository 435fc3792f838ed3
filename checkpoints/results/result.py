"""What every result is: frozen fields, a verdict in words, a table, a figure, a folder on disk, a notebook's page.

    @dataclass(frozen=True, repr=False)
    class Norms(Result):
        artifact, title = "norms", "Norms of the weights"
        by_layer: NDArray[np.floating]
        meta: Mapping[str, Any] = field(default_factory=dict)

        @property
        def verdict(self) -> str: ...
        def to_frame(self) -> "pd.DataFrame": ...

Saving and loading follow the fields (`checkpoints.results.fields`); a result that is stored otherwise overrides
`_stored` and `_restored` alone. A figure, where there is one, is the method ``plot``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from html import escape
from itertools import chain
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from checkpoints.errors import BadPrompt, DamagedResult
from checkpoints.results.artifacts import open_artifact, read_artifact, write_artifact
from checkpoints.results.fields import Arrays, pack, unpack
from checkpoints.results.soundness import flaws

if TYPE_CHECKING:
    import pandas as pd

ROWS = 20
WIDTH = 2000


@dataclass(frozen=True, slots=True, repr=False)
class Result:
    """Base of all results.

    Attributes:
        artifact: what the folder on disk is called to be; another kind is refused when it is read.
        title: heads the page in a notebook; "" for none.
        stored_as: field -> its name on disk, where that is another one.
        on_disk: names on disk of the large tables that `open` leaves in their file.
        shapes: field -> the letters of its axes (``"N L H"``), each of one length in all; of a table, of every array.
        needed: names that its ``meta`` must have.
    """

    artifact: ClassVar[str]
    title: ClassVar[str] = ""
    stored_as: ClassVar[Mapping[str, str]] = {}
    shapes: ClassVar[Mapping[str, str]] = {}
    needed: ClassVar[tuple[str, ...]] = ()
    on_disk: ClassVar[tuple[str, ...]] = ()

    @property
    def verdict(self) -> str:
        """What was found, in words, every number computed."""
        raise NotImplementedError

    def to_frame(self) -> "pd.DataFrame":
        """The result as a table."""
        raise NotImplementedError

    def save(self, folder: Path | str) -> Path:
        """Write the result to a folder, whole or not at all.

        Raises:
            StoreError: the place cannot be written.
        """
        document, arrays = self._stored()
        return write_artifact(folder, self.artifact, document, arrays)

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read what `save` wrote; needs no torch.

        Raises:
            StoreError: nothing there, damaged, of another kind, or of a newer version.
        """
        return cls._of(folder, *read_artifact(folder, cls.artifact))

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """`load` for a series of results: as much is checked, and large tables stay in their file until they are used.

        Raises:
            StoreError: as `load`. Using a table raises DamagedResult where its file has changed since.
        """
        document, arrays, left = open_artifact(folder, cls.artifact, cls.on_disk)
        return cls._of(folder, document, {**arrays, **left})

    @classmethod
    def _of(cls, folder: Path | str, document: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        try:
            found = cls._restored(document, arrays)
            flaw = next(chain(flaws(found), found._flaws()), None)
        except KeyError as missing:
            raise DamagedResult(f"{folder} lacks {missing}: delete the folder and run again") from missing
        except (ArithmeticError, AttributeError, BadPrompt, LookupError, TypeError, ValueError) as error:
            raise DamagedResult(
                f"{folder} holds no {cls.artifact} ({error}): delete the folder and run again"
            ) from error
        if flaw is not None:
            raise DamagedResult(f"{folder} holds no {cls.artifact} ({flaw}): delete the folder and run again")
        return found

    def _stored(self) -> tuple[dict[str, Any], Arrays]:
        """The result as JSON and arrays."""
        arrays: Arrays = {}
        named = {self.stored_as.get(field.name, field.name): getattr(self, field.name) for field in fields(self)}
        return pack(named, "", arrays), arrays

    @classmethod
    def _restored(cls, document: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        """The result that `_stored` was taken of."""
        former = {stored: name for name, stored in cls.stored_as.items()}
        named = {former.get(name, name): value for name, value in document.items()}
        placed = {}
        for path, array in arrays.items():
            first, dot, rest = path.partition(".")
            placed[former.get(first, first) + dot + rest] = array
        found: Self = unpack(cls, named, "", placed)
        return found

    def _flaws(self) -> Iterator[str]:
        """What is wrong with it beside the kinds and lengths of its fields, where it was read from disk."""
        yield from ()

    def _table(self) -> str:
        """The table of a notebook's page, as HTML."""
        shown = self.to_frame().head(ROWS)
        return str(shown.to_html(index=False, border=0, float_format="{:.3g}".format))

    def _repr_html_(self) -> str:
        title = f"<b>{escape(self.title)}</b>: " if self.title else ""
        return f"<p>{title}{escape(self.verdict)}</p>{self._table()}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {shorten(self.verdict, WIDTH, placeholder=' …')}>"
