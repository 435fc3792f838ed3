"""Mutated files of every kind that users bring: a value, or one line that names the file, in little time."""

import random
import re
import time

import pytest

from checkpoints import DriftError
from tests.checkpoints.files.test_reading import READERS

SEEDS = {
    "needles": (
        '{"needle": "The code of a is b.", "answer": "b", "question": "What? The code is", "distrac'
        'tors": ["x y"], "parts": [["s","a"]], "rank": 1, "labels": {"k": 1}}\n{"needle": "The code '
        'of a is b.", "answer": "b", "question": "What? The code is", "distractors": ["x y"], "part'
        's": [["s","a"]], "rank": 1, "labels": {"k": 1}}\n{"needle": "The code of a is b.", "answer"'
        ': "b", "question": "What? The code is", "distractors": ["x y"], "parts": [["s","a"]], "ran'
        'k": 1, "labels": {"k": 1}}\n'
    ),
    "facts": (
        '{"clean": "Paris is in", "corrupt": "Rome is in", "answer": " France", "wrong": " Italy", '
        '"labels": {"class": "a"}, "segments": {"subject": "Paris"}}\n{"clean": "Paris is in", "corr'
        'upt": "Rome is in", "answer": " France", "wrong": " Italy", "labels": {"class": "a"}, "seg'
        'ments": {"subject": "Paris"}}\n{"clean": "Paris is in", "corrupt": "Rome is in", "answer": '
        '" France", "wrong": " Italy", "labels": {"class": "a"}, "segments": {"subject": "Paris"}}\n'
    ),
    "counterfact": (
        '[{"case_id": 0, "requested_rewrite": {"prompt": "{} was born in", "relation_id": "P1", "ta'
        'rget_true": {"str": "Oslo"}, "subject": "A B"}, "paraphrase_prompts": ["A B comes from"]},'
        ' {"case_id": 1, "requested_rewrite": {"prompt": "{} was born in", "relation_id": "P1", "ta'
        'rget_true": {"str": "Rome"}, "subject": "C D"}, "paraphrase_prompts": ["C D comes from"]}]'
    ),
    "lama": (
        '{"uuid":"a","sub_label":"Mara","obj_label":"Oslo","predicate_id":"P1","masked_sentences":['
        '"Mara was born in [MASK] ."]}\n{"uuid":"b","sub_label":"Finn","obj_label":"Rome","predicate'
        '_id":"P1","masked_sentences":["Finn was born in [MASK]."]}\n'
    ),
    "probes": (
        '{\n "name": "r",\n "prompt_templates": [\n  "The {} ends in"\n ],\n "samples": [\n  {\n   "subjec'
        't": "A",\n   "object": "B"\n  },\n  {\n   "subject": "C",\n   "object": "D"\n  }\n ]\n}'
    ),
    "eap": (
        '{"cfg": {"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": false, "d_model": 4}, "nodes": '
        '{"input": {"in_graph": true}}, "edges": {"input->logits": {"score": 1.0, "in_graph": true}'
        ', "a0.h0->m0": {"score": 0.5, "in_graph": false}}}'
    ),
    "head lists": ('{"0-0": [0.1, 0.2], "0-1": [0.3, 0.4], "1-0": [0, 1], "1-1": [0.5, 0.6]}'),
    "downstream": ("step,mmlu,arc\n0,0.1,0.2\n10,nan,0.3\n20,0.4,\n"),
    "haystack": (
        "The river is wide. The river is wide. The river is wide. The river is wide. The river is w"
        "ide. The river is wide. The river is wide. The river is wide. The river is wide. The river"
        " is wide. "
    ),
    "documents": ('{"text": "a b c", "entity": "a", "main": true}\n{"text": "d"}\n'),
    "config": (
        'model = "m"\ndocuments = "d"\nfacts = "f"\nepochs = 2\nmeasures = ["heads"]\nlearned = 0.5\n[[st'
        'rategy]]\nname = "a"\nlr = 1e-4\ntags = ["<e>","</e>"]\n[strategy.lora]\nr = 8\n'
    ),
    "scores": ("unit,step,score\na,0,0.5\na,1,0.6\nb,0,1\nb,1,1\n"),
    "manifest": ("Stage,Step,Tokens Seen,Checkpoint Directory\nstage1,0,0,a\nstage2-i1,10,1.5B,b\n"),
    "device map": ('{"model.embed": "cpu", "lm_head": 0}'),
    "config.json": ('{"model_type": "llama", "num_hidden_layers": 2, "x": [0.0, Infinity]}'),
}
PIECES = [
    *(b'"', b"{", b"}", b"[", b"]", b",", b":", b"\n", b" ", b"'", b"=", b"-1", b"null", b"true", b"NaN", b"{}", b'""'),
    *(b"\x00", b"\xff", b"\\ud800", b"1e999", b"9" * 400, "\u2028".encode(), b"\xef\xbb\xbf", b"[[" * 200),
]
VALUES = (b"3", b'"a"', b"null", b"[]", b"{}", b"-1", b"1e400", b"true", b'[1, "a"]', b"99999999")
DRAWS = 60
LONGEST = 10.0  # seconds; a draw that asks for more than its file holds takes minutes


def _mutated(content: bytes, rng: random.Random) -> bytes:
    """A file with one to four places changed: bytes put in, cut out, exchanged or repeated, values replaced."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, other = sorted((rng.randrange(len(changed) + 1), rng.randrange(len(changed) + 1)))
        how = rng.choice(("put", "cut", "exchange", "repeat", "value"))
        values = list(re.finditer(rb'"[^"]*"|\d+\.?\d*', bytes(changed)))
        if how == "put":
            changed[at:at] = rng.choice(PIECES)
        elif how == "cut":
            del changed[at : at + rng.choice((1, 5, 40))]
        elif how == "exchange":
            changed[at : at + 1] = bytes([rng.randrange(256)])
        elif how == "repeat":
            changed[at:at] = changed[at : min(other, at + 60)]
        elif values:
            chosen = rng.choice(values)
            changed[chosen.start() : chosen.end()] = rng.choice(VALUES)
    return bytes(changed)


@pytest.mark.parametrize("reader", READERS)
def test_a_mutated_file_is_read_or_refused_in_one_line(tmp_path, reader):
    rng = random.Random(f"reading-{reader}")
    path = tmp_path / "input.json"
    refused = 0
    for draw in range(DRAWS):
        path.write_bytes(_mutated(SEEDS[reader].encode(), rng))
        start = time.monotonic()
        try:
            READERS[reader](path)
        except DriftError as error:
            refused += 1
            assert "\n" not in str(error).strip(), f"draw {draw}"
        assert time.monotonic() - start < LONGEST, f"draw {draw}"
    assert refused > 0


@pytest.mark.parametrize("reader", sorted(set(READERS) - {"config"}))  # a config names files that must be there
def test_the_file_that_is_mutated_is_read(tmp_path, reader):
    path = tmp_path / "input.json"
    path.write_text(SEEDS[reader])
    READERS[reader](path)
