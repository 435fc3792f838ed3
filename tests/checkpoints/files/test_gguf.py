"""The head of a GGUF file: where its tensors lie, and what it may not promise."""

import struct

import pytest
import torch

from checkpoints import open_series
from checkpoints.audit import audit
from checkpoints.errors import CorruptWeights
from checkpoints.files.formats import find_weights
from checkpoints.files.gguf import gguf_entries
from checkpoints.files.headers import TensorEntry
from checkpoints.loading.coverage import refuse_left_over


def text(content):
    return struct.pack("<Q", len(content)) + content


def number(key, value):
    return text(key) + struct.pack("<II", 4, value)


def tensor(name, shape, kind=0, offset=0):
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, offset)


TENSORS = (tensor(b"token_embd.weight", (6, 4)), tensor(b"blk.0.w", (4, 32), kind=8, offset=96))


def write(path, *, fields=(), tensors=TENSORS, count=None, version=3, data=bytes(96 + 136)):
    fields = (number(b"llama.block_count", 1), *fields)
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors) if count is None else count, len(fields))
    body = head + b"".join((*fields, *tensors))
    path.write_bytes(body + bytes(-len(body) % 32) + data)
    return path


def test_the_head_says_where_each_tensor_lies(tmp_path):
    words = text(b"words") + struct.pack("<IIQ", 9, 8, 2) + text(b"a") + text(b"bc")
    numbers = text(b"numbers") + struct.pack("<IIQ", 9, 4, 3) + bytes(12)
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    path = write(folder / "model.gguf", fields=(words, numbers, text(b"flag") + struct.pack("<IB", 7, 1)))
    size = path.stat().st_size
    assert gguf_entries([path]) == {
        "token_embd.weight": TensorEntry(path, "F32", (6, 4), size - 232, size - 136),
        "blk.0.w": TensorEntry(path, "Q8_0", (4, 32), size - 136, size),  # 34 bytes for each 32 values
    }
    (fault,) = audit(open_series(tmp_path)).faults
    assert (fault.kind, "token_embd.weight" in str(fault)) == ("all_zero", True)  # read as any other file's tensors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fields": [number(b"llama.block_count", 10**6)]}, "promises 1,000,000 layers, but can hold 2 at most"),
        ({"count": 10**6}, r"promises 1,000,000 tensors, but can hold \d\d at most"),
        ({"tensors": TENSORS + (tensor(b"x", (0,)),) * 200}, "promises 202 tensors, but can hold 128 at most"),
        ({"tensors": TENSORS[:1] * 2}, "holds 2 tensors under 1 names"),
        ({"fields": [number(b"llama.embedding_length", 10**9)]}, "embedding_length 1,000,000,000, but no tensor of it"),
        ({"fields": [number(b"llama.feed_forward_length", 33)]}, "length 33, but no tensor of it is wider than 32"),
        ({"data": bytes(95)}, r"is truncated: it has \d+ bytes, its head promises \d+"),
        ({"tensors": (tensor(b"x", (2**40, 2**40)),)}, "is truncated"),
        ({"tensors": (tensor(b"x", (4,), kind=99),)}, "'x' is of type 99, which is not known"),
        ({"tensors": (tensor(b"x", (1,) * 9),)}, "'x' has 9 dimensions"),
        ({"version": 1}, "is GGUF of version 1, not 2 or 3"),
        ({"version": 3 << 24}, "is GGUF of version 50,331,648, not 2 or 3 of little-endian"),
        ({"fields": [text(b"x") + struct.pack("<IQ", 8, 2**62)]}, "damaged in its head"),
        ({"fields": [text(b"x") + struct.pack("<IIQ", 9, 8, 2**62)]}, "damaged in its head"),
        ({"fields": [text(b"x") + struct.pack("<IIQ", 9, 9, 1)]}, "damaged in its head"),
        ({"fields": [text(b"x") + struct.pack("<I", 77)]}, "damaged in its head"),
        ({"fields": [struct.pack("<Q", 2**63)]}, "damaged in its head"),
        ({"fields": [number(b"general.alignment", 0)]}, "damaged in its head"),
    ],
)
def test_what_it_cannot_hold_is_one_line(tmp_path, changes, message):
    path = write(tmp_path / "model.gguf", **changes)
    with pytest.raises(CorruptWeights, match=message):
        gguf_entries([path])


def test_tensors_that_would_be_left_out_are_named(tmp_path):
    (tmp_path / "m").mkdir()
    tensors = (*TENSORS, tensor(b"rope_freqs.weight", (4,), offset=232))
    write(tmp_path / "m" / "model.gguf", tensors=tensors, data=bytes(248))
    weights = find_weights(tmp_path / "m")
    model = torch.nn.Linear(24, 6, bias=False)  # 144 values; the file has 24 + 128 + 4
    with pytest.raises(CorruptWeights, match=r"12 values that transformers has no place for \(rope_freqs.weight\)"):
        refuse_left_over(tmp_path / "m" / "model.gguf", weights, model)
    refuse_left_over(tmp_path / "m" / "model.gguf", weights, torch.nn.Linear(26, 6, bias=False))
