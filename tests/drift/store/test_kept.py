"""The one way in which something is found in a store or made: found, made, damaged, of another time, unwritable."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from checkpoints.errors import StoreError
from checkpoints.results.artifacts import RESULT_FILE, write_artifact
from checkpoints.results.result import Result
from circuit_drift.store.kept import Place, kept
from circuit_drift.store.store import Store, key_of


@dataclass(frozen=True, repr=False)
class Number(Result):
    artifact = "number"
    value: int

    @property
    def verdict(self) -> str:
        return str(self.value)

    def to_frame(self) -> pd.DataFrame:
        return pd.DataFrame({"value": [self.value]})


class Made:
    """Counts how often it is asked, and gives the count."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> Number:
        self.times += 1
        return Number(self.times)


@pytest.fixture(params=["a whole result", "a document of circuits"])
def asked(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Made, object]]:
    """What makes, and a function that asks the store for it."""
    made = Made()
    if request.param == "a whole result":
        place = Place.of_result(Store.open(tmp_path), "numbers", "k", Number)
        yield made, lambda: place.find_or_make(made)
    else:
        how = {
            "write": lambda number: ({"value": number.value}, {}),
            "read": lambda document, _: Number(document["value"]),
        }
        yield made, lambda: kept(tmp_path, "numbers", ["c1", "c2"], {"version": 1}, make=made, **how)


def test_it_is_made_once(asked, tmp_path: Path):
    made, ask = asked
    assert [ask().value for _ in range(3)] == [1, 1, 1]
    assert made.times == 1
    assert [result.measure for result in Store(tmp_path).results()] == ["numbers"]


@pytest.mark.parametrize("damage", ["{", '{"format": 2, "kind": "numbers"}', '{"format": 99, "kind": "number"}'])
def test_what_cannot_be_read_is_made_anew_and_one_line_says_so(asked, damage: str, tmp_path, caplog):
    _, ask = asked
    ask()
    (stored,) = Store(tmp_path).results()
    (stored.folder / RESULT_FILE).write_text(damage)
    caplog.clear()
    assert ask().value == 2
    (line,) = caplog.messages
    assert line.startswith("what the store kept as numbers cannot be read, and is made anew: ")
    assert "\n" not in line
    assert ask().value == 2
    assert caplog.messages == [line]


def test_without_a_store_or_keys_of_all_circuits_it_is_made_each_time(tmp_path: Path):
    made = Made()
    nowhere = Place.of_result(None, "numbers", "k", Number)
    assert [nowhere.find_or_make(made).value for _ in range(2)] == [1, 2]
    assert nowhere.find() is None
    how = {"make": made, "write": lambda number: ({}, {}), "read": lambda *_: Number(0)}
    assert kept(None, "numbers", ["c1"], {}, **how).value == 3
    assert kept(tmp_path, "numbers", ["c1", None], {}, **how).value == 4
    assert kept(tmp_path / "none", "numbers", ["c1"], {}, **how).value == 5
    assert not any(tmp_path.iterdir())


def test_a_store_that_is_full_says_so_and_one_to_be_read_alone_is_quiet(tmp_path, monkeypatch, caplog):
    def full(made: Number, folder: Path) -> None:
        raise StoreError(f"cannot write a result to {folder}: No space left on device")

    place = Place(Store.open(tmp_path), "numbers", "k", Number.load, full)
    assert place.find_or_make(Made()).value == 1
    assert caplog.messages == [
        f"numbers was made and is not kept: cannot write a result to {tmp_path / 'numbers' / 'k'}: "
        "No space left on device"
    ]
    caplog.clear()
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with caplog.at_level(logging.INFO):
        assert place.find_or_make(Made()).value == 1
    assert caplog.messages == []


def test_a_value_made_of_circuits_lies_under_the_hash_of_what_was_asked_as_earlier_versions_put_it(tmp_path: Path):
    """`upkeep` tells by the provenance which runs it belongs to."""
    key = key_of({"version": 1, "circuits": ["c1", "c2"]})
    document = {"value": 7, "provenance": {"key": key, "circuits": ["c1", "c2"]}}
    write_artifact(tmp_path / "numbers" / key, "numbers", document, {})
    how = {"make": Made(), "write": lambda number: ({}, {}), "read": lambda document, _: Number(document["value"])}
    assert kept(tmp_path, "numbers", ["c1", "c2"], {"version": 1}, **how).value == 7
    assert kept(tmp_path, "numbers", ["c2", "c1"], {"version": 1}, **how).value == 1
