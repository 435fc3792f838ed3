"""Mutated inputs: bytes, text and structure of valid files changed as damage, mistakes and malice change them."""

import json
import re
from collections.abc import Callable
from random import Random
from typing import Any

NESTED = 400
LONG = 100_000
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**63, 10**30, 1e300, float("inf"), float("nan"), 0.1, "", " ", "x" * 3000, "\ud800",
    "\x00", "\x1b[31m\u202e", "1e999", "NaN", "../..", "/dev/zero", "/dev/full", "/", [], {}, [[]], [None], [1, "a"],
    {"$number": "nan"}, {"$number": 3}, {"": ""},
)  # fmt: skip
BYTES = (
    b"", b"\x00", b"\x00" * 64, b"\xff\xfe", b"\xef\xbb\xbf", b"\x80", b"\xed\xa0\x80", b"\n", b"\r", b"\xe2\x80\xa8",
    b'"', b",", b"{", b"}", b"[", b"]", b"\\u0000", b"\\ud800", b"NaN", b"1e999", b"-", b"9" * 40, b"9" * 5000, b"#",
    b"=", b"[" * LONG, b'{"a":' * LONG, b"a" * LONG, b"," * 2000, b"\n" * 2000, b"'''", b'"""', b"(" * 300,
)  # fmt: skip
NUMBERS = (
    b"-1", b"0", b"1e999", b"NaN", b"", b"9" * 25, b"9" * 5000, b"0x" + b"9" * 5000, b"1.5", b'"1"', b"true", b"1_0"
)  # fmt: skip
NUMBER = re.compile(rb"-?\d+(\.\d+)?")


def mutate(content: bytes, draw: Random) -> bytes:
    """A changed copy: one to three changes of structure where there is any, of text, or of bytes."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        ways: list[Callable[[bytes, Random], bytes]] = [_flip, _cut, _insert, _insert, _drop, _repeat, _number, _swap]
        if _documents(content):
            ways += [_restructure] * len(ways)
        content = draw.choice(ways)(content, draw)
    return content


def mutate_safetensors(content: bytes, draw: Random) -> bytes:
    """A changed copy of a safetensors file: its length, its header with the length that fits, or any byte."""
    length = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + length], content[8 + length :]
    way = draw.randrange(4)
    if way == 0:
        claimed = draw.choice((0, 1, length - 1, length + 1, 2**31, 2**63 - 1, 2**64 - 1, draw.randrange(2 * length)))
        return claimed.to_bytes(8, "little") + content[8:]
    if way == 1:
        return mutate(content, draw)
    header = mutate(header, draw)
    return len(header).to_bytes(8, "little") + header + (data if way == 2 else data[: draw.randrange(len(data) + 1)])


def _flip(content: bytes, draw: Random) -> bytes:
    if not content:
        return b"\x01"
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 4, 32))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _cut(content: bytes, draw: Random) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def _insert(content: bytes, draw: Random) -> bytes:
    place = draw.choice((0, len(content), draw.randrange(len(content) + 1)))
    return content[:place] + draw.choice(BYTES) + content[place:]


def _drop(content: bytes, draw: Random) -> bytes:
    start, end = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    return content[:start] + content[min(end, start + draw.choice((1, 8, 200, len(content)))) :]


def _repeat(content: bytes, draw: Random) -> bytes:
    start, end = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    return content[:end] + content[start:end] * draw.choice((1, 3)) + content[end:]


def _number(content: bytes, draw: Random) -> bytes:
    found = list(NUMBER.finditer(content[:200_000]))
    if not found:
        return _insert(content, draw)
    one = draw.choice(found)
    return content[: one.start()] + draw.choice(NUMBERS) + content[one.end() :]


def _swap(content: bytes, draw: Random) -> bytes:
    lines = content.split(b"\n")
    first, second = draw.randrange(len(lines)), draw.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    return b"\n".join(lines)


def _documents(content: bytes) -> list[tuple[int, Any]]:
    """The JSON values of a file: of the whole, or of each line that is one."""
    if len(content) > LONG:
        return []
    for pieces in ([content], content.split(b"\n")):
        found = []
        for place, piece in enumerate(pieces):
            try:
                value = json.loads(piece)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict | list) and value:
                found.append((place, value))
        if found:
            return found
    return []


def _restructure(content: bytes, draw: Random) -> bytes:
    found = _documents(content)
    if not found:
        return _flip(content, draw)
    place, value = draw.choice(found)
    holder, name = draw.choice(_places(value))
    way = draw.randrange(5)
    if way == 0:
        del holder[name]
    elif way == 1 and isinstance(holder, dict):
        holder[draw.choice(("", "a", "\u202e", str(name) * 2, str(name).upper()))] = holder.pop(name)
    elif way == 2:
        deep: Any = 0
        for _ in range(NESTED):
            deep = [deep]
        holder[name] = deep
    else:
        holder[name] = draw.choice(ODD)
    try:
        text = json.dumps(value).encode()
    except (ValueError, RecursionError):
        return _flip(content, draw)
    if len(found) == 1 and place == 0 and b"\n" not in text and _is_json(content):
        return text
    lines = content.split(b"\n")
    lines[place] = text
    return b"\n".join(lines)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every entry of a JSON value, as its container with its key or index."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting and len(found) < 3000:
        holder = waiting.pop()
        entries = list(holder.items()) if isinstance(holder, dict) else list(enumerate(holder))
        for name, inner in entries:
            found.append((holder, name))
            if isinstance(inner, dict | list) and inner:
                waiting.append(inner)
    return found


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True
