"""Remembered hashes: right or made anew, never wrong."""

import hashlib
import json
import os
import threading
from pathlib import Path

import pytest

from checkpoints.files import hashes
from checkpoints.files.hashes import CACHE, SMALLEST, hash_file

LONG_AGO = 10**9


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of one test, and files that changed long ago as far as it can tell."""
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(hashes.time, "time_ns", lambda: 2**62)
    return tmp_path / "cache" / "hashes"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(os.urandom(SMALLEST + 12345))
    return path


@pytest.fixture
def reads(monkeypatch):
    """The files that were read from end to end."""
    found = []
    plain = hashes._read
    monkeypatch.setattr(hashes, "_read", lambda path: found.append(path) or plain(path))
    return found


def right(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def start_again() -> None:
    hashes._hash_file.cache_clear()


def test_a_second_start_reads_no_file_again(cache, file, reads):
    assert hash_file(file) == right(file)
    start_again()
    assert hash_file(file) == right(file)
    assert reads == [file]


def test_small_files_are_read_and_leave_no_record(cache, tmp_path, reads):
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    assert hash_file(path) == right(path)
    assert not cache.exists()


@pytest.mark.parametrize("place", [0, SMALLEST // 3, -1])
def test_a_file_changed_in_place_is_read_again_whatever_its_date_says(cache, file, reads, place):
    os.utime(file, ns=(LONG_AGO, LONG_AGO))
    hash_file(file)
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    with file.open("r+b") as stream:
        stream.write(content)
    os.utime(file, ns=(LONG_AGO, LONG_AGO))
    start_again()
    assert hash_file(file) == right(file) == hashlib.sha256(content).hexdigest()
    assert len(reads) == 2


def test_a_record_that_fits_by_its_stat_alone_is_not_believed(cache, file, reads, monkeypatch):
    """As on a file system whose times cannot be told apart: the samples of the content speak."""
    monkeypatch.setattr(hashes, "_identity", lambda _: (1, 2, LONG_AGO, LONG_AGO, file.stat().st_size))
    hash_file(file)
    file.write_bytes(os.urandom(file.stat().st_size))
    start_again()
    assert hash_file(file) == right(file)
    assert len(reads) == 2


@pytest.mark.parametrize("damage", ["cut", "other hash", "other path", "not an object"])
def test_a_damaged_record_is_made_anew(cache, file, reads, damage):
    expected = hash_file(file)
    (record,) = cache.glob("*.json")
    content = json.loads(record.read_text())
    if damage == "cut":
        record.write_text(record.read_text()[:50])
    elif damage == "not an object":
        record.write_text("[]")
    else:
        field = {"other hash": "sha256", "other path": "path"}[damage]
        record.write_text(json.dumps({**content, field: content[field].replace(content[field][3], "z")}))
    start_again()
    assert hash_file(file) == expected
    assert len(reads) == 2
    assert json.loads(record.read_text()) == content


def test_a_file_that_has_only_just_changed_is_not_remembered(file, tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    hash_file(file)
    assert not (tmp_path / "cache").exists()


def test_a_file_that_changes_while_it_is_read_is_not_remembered(cache, file, monkeypatch):
    plain = hashes._read

    def read_and_change(path):
        digest = plain(path)
        path.write_bytes(b"x" * (SMALLEST + 1))
        return digest

    monkeypatch.setattr(hashes, "_read", read_and_change)
    hash_file(file)
    assert not list(cache.glob("*"))
    monkeypatch.setattr(hashes, "_read", plain)
    assert hash_file(file) == right(file)


def test_a_cache_that_cannot_be_written_costs_only_time(file, tmp_path, monkeypatch):
    (tmp_path / "blocked").write_text("no folder")
    monkeypatch.setenv(CACHE, str(tmp_path / "blocked"))
    monkeypatch.setattr(hashes.time, "time_ns", lambda: 2**62)
    assert hash_file(file) == right(file)


def test_who_asks_while_a_file_is_read_waits_for_that_answer(file, reads):
    found = []
    threads = [threading.Thread(target=lambda: found.append(hash_file(file))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [right(file)] * 4
    assert len(reads) == 1
