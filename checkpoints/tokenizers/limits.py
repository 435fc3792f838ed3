"""What a tokenizer's files ask for, held against what any tokenizer needs, before a library reads them.

A replacement of a million letters, an id of two thousand million or a list of as many spare tokens would take time and
memory without end inside the library; sampled splits would make other ids of a text each time.
"""

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from checkpoints.errors import DriftError, NotACheckpoint
from checkpoints.files.configs import read_json

TOKENIZER, CONFIG, VOCABULARIES = "tokenizer.json", "tokenizer_config.json", ("vocab.json", "added_tokens.json")
LARGEST_ID = 1 << 24
"""More than any vocabulary has; a library may look at every id up to the largest."""
GROWTH = 100_000
"""By how much rules that put text in the place of text may lengthen one, all in a row."""
AROUND = 1000
"""Tokens that may be put around a text."""
SPARE = 100_000
"""Tokens that may be made by their number alone."""


def require_possible_tokenizer(folder: Path) -> None:
    """Refuse what would not end, and what is not the same each time.

    Raises:
        DriftError: names the file, the value and the bound; or a file cannot be read.
    """
    for name, check in {TOKENIZER: _rules, CONFIG: _settings, **dict.fromkeys(VOCABULARIES, _ids)}.items():
        path = folder / name
        if path.is_file():
            check(path, _read(path))


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except NotACheckpoint as error:
        raise DriftError(f"the tokenizer in {path.parent} cannot be loaded: {error}") from error


def _rules(path: Path, content: Mapping[str, Any]) -> None:
    _ids(path, _map(_map(content.get("model")).get("vocab")))
    added = map(_map, _list(content.get("added_tokens")))
    _ids(path, {str(entry.get("content")): entry.get("id") for entry in added})
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        growth = prod(max(1, length) for length in _replacements(_map(content.get(part))))
        _hold(path, f"lengthens a text up to {growth:.3g} times in its {part}", growth, GROWTH)
    around = sum(_around(_map(content.get("post_processor"))))
    _hold(path, f"puts {around:,} tokens around a text", around, AROUND)


def _settings(path: Path, content: Mapping[str, Any]) -> None:
    for name in ("extra_ids", "offset"):
        value = content.get(name)
        if isinstance(value, int | float):
            _hold(path, f"asks for {name} {value:,}", value, SPARE)
    if _map(content.get("sp_model_kwargs")).get("enable_sampling"):
        raise DriftError(
            f"{path} splits texts at random (sp_model_kwargs.enable_sampling), which is for training: take it out"
        )


def _ids(path: Path, ids: Mapping[str, Any]) -> None:
    for token, value in ids.items():
        if isinstance(value, int | float) and value > LARGEST_ID:
            raise DriftError(f"{path} gives {token!r:.80} the id {value:,}, beyond {LARGEST_ID:,}: restore the file")


def _hold(path: Path, what: str, value: float, bound: int) -> None:
    if value > bound:
        raise DriftError(f"{path} {what}, beyond {bound:,}: restore the file")


def _replacements(rule: Mapping[str, Any]) -> Iterator[int]:
    """The lengths of the texts that rules put in the place of others."""
    yield from (len(text) for name in _PUT if isinstance(text := rule.get(name), str))
    for inner in (inner for name in _ROWS for inner in _list(rule.get(name))):
        yield from _replacements(_map(inner))


_PUT, _ROWS = ("content", "prepend", "replacement", "prefix"), ("normalizers", "pretokenizers", "decoders")


def _around(rule: Mapping[str, Any]) -> Iterator[int]:
    """How many tokens each piece of a template, or of several in a row, stands for."""
    for inner in _list(rule.get("processors")):
        yield from _around(_map(inner))
    known = _map(rule.get("special_tokens"))
    for piece in _list(rule.get("single")):
        name = str(_map(_map(piece).get("SpecialToken")).get("id"))
        yield len(_list(_map(known.get(name)).get("ids")))


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
