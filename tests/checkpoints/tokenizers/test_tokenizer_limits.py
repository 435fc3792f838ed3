"""Tokenizer files that ask for more than any tokenizer needs, that split at random, or begin with a byte-order mark."""

import json

import pytest

from checkpoints import DriftError
from checkpoints.tokenizers.identity import behaviour
from checkpoints.tokenizers.limits import require_possible_tokenizer
from checkpoints.tokenizers.load import read_tokenizer
from tests.checkpoints.conftest import save_tokenizer


def changed(folder, name, change):
    path = folder / name
    content = json.loads(path.read_text()) if path.exists() else {}
    change(content)
    path.write_text(json.dumps(content))
    return folder


def replaced(content, *, in_all=1, kind="normalizers"):
    rule = {"type": "Replace", "pattern": {"String": "a"}, "content": content}
    return {"type": "Sequence", kind: [rule] * in_all}


def template(pieces, ids):
    special = {"<s>": {"id": "<s>", "ids": [0] * ids, "tokens": ["[UNK]"] * ids}}
    rule = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}] * pieces}
    return {"type": "Sequence", "processors": [rule | {"pair": [], "special_tokens": special}]}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("tokenizer.json", {"normalizer": replaced("x" * 10**6)}, r"lengthens a text up to 1e\+06 times in its normal"),
        ("tokenizer.json", {"normalizer": replaced("xx", in_all=40)}, r"lengthens a text up to 1.1e\+12 times"),
        ("tokenizer.json", {"normalizer": {"type": "Prepend", "prepend": "x" * 10**6}}, "lengthens a text"),
        (
            "tokenizer.json",
            {"decoder": replaced("xx", in_all=40, kind="decoders")},
            r"times in its decoder, beyond 100,000",
        ),
        ("tokenizer.json", {"post_processor": template(3000, 3000)}, "puts 9,000,000 tokens around a text"),
        ("tokenizer.json", {"model": {"vocab": {"a": 2**31}}}, "gives 'a' the id 2,147,483,648, beyond 16,777,216"),
        ("tokenizer.json", {"added_tokens": [{"content": "<x>", "id": 2**31}]}, "gives '<x>' the id 2,147,483,648"),
        ("vocab.json", {"a": 2**31}, "vocab.json gives 'a' the id 2,147,483,648"),
        ("added_tokens.json", {"<x>": 2**31}, "added_tokens.json gives '<x>' the id"),
        ("tokenizer_config.json", {"extra_ids": 10**9}, "asks for extra_ids 1,000,000,000, beyond 100,000"),
        ("tokenizer_config.json", {"offset": 10**9}, "asks for offset 1,000,000,000"),
        ("tokenizer_config.json", {"sp_model_kwargs": {"enable_sampling": True}}, "splits texts at random"),
    ],
)
def test_what_would_not_end_or_not_be_the_same_is_refused_before_a_library_reads_it(tmp_path, name, change, message):
    folder = changed(save_tokenizer(tmp_path), name, lambda content: content.update(change))
    with pytest.raises(DriftError, match=message):
        read_tokenizer(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": replaced("▁▁▁", in_all=8)},  # quotes and dots written out
        {"post_processor": template(2, 3)},
        {"model": {"vocab": ["a"]}, "added_tokens": None, "normalizer": [1], "decoder": "x", "post_processor": 3},
    ],
)
def test_what_tokenizers_ask_for_is_left_to_the_library(tmp_path, change):
    require_possible_tokenizer(changed(tmp_path, "tokenizer.json", lambda content: content.update(change)))


def word_pairs(folder, **model):
    """A BPE of `ab` and `abab`."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"a": 0, "b": 1, "ab": 2, "abab": 3}
    core = Tokenizer(BPE(vocab=vocabulary, merges=[("a", "b"), ("ab", "ab")], **model))
    PreTrainedTokenizerFast(tokenizer_object=core).save_pretrained(folder)
    return folder


def test_merges_left_out_at_random_are_left_in(tmp_path, caplog):
    whole = read_tokenizer(word_pairs(tmp_path / "whole"))
    assert not caplog.records
    thinned = read_tokenizer(word_pairs(tmp_path / "thinned", dropout=0.5))
    assert "leaves out merges at random (dropout)" in caplog.text
    assert [thinned("abab" * 8).input_ids for _ in range(5)] == [[3] * 8] * 5
    assert behaviour(thinned) == behaviour(whole)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_makes_no_other_tokenizer(tmp_path, name, encoding):
    plain = behaviour(read_tokenizer(word_pairs(tmp_path)))
    path = tmp_path / name
    path.write_text(path.read_text() if path.exists() else "{}", encoding=encoding)
    assert behaviour(read_tokenizer(tmp_path)) == plain


def test_a_byte_order_mark_before_merges_too(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2}', encoding="utf-8-sig")
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n", encoding="utf-8-sig")
    found = read_tokenizer(tmp_path)
    assert (found("abab").input_ids, found.name_or_path) == ([2, 2], str(tmp_path))
