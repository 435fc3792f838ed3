"""A tokenizer is what it does: other bytes of the same tokenizer are it, and one changed side file is another."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from checkpoints.files.hashes import CACHE
from checkpoints.tokenizers import identity
from checkpoints.tokenizers.identity import behaviour, tokenizer_identity
from checkpoints.tokenizers.load import read_tokenizer

TEXT = ["Paris is the capital of France. Rome is the capital of Italy. 巴黎是法国的首都。"] * 20


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>"]
    made.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False, initial_alphabet=alphabet),
    )
    made.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))])
    PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>").save_pretrained(tmp_path / "own")
    return tmp_path / "own"


def rewritten(folder, change, name="tokenizer.json"):
    """The identity once a file's content went through a change."""
    path = folder / name
    content = json.loads(path.read_text())
    changed = change(content)
    path.write_text(changed if isinstance(changed, str) else json.dumps(content))
    return tokenizer_identity(folder)


SAME = {
    "white space": lambda content: json.dumps(content, indent=4),
    "a truncation block": lambda content: content.update(
        truncation={"direction": "Right", "max_length": 512, "strategy": "LongestFirst", "stride": 0}
    ),
    "merges as strings": lambda content: content["model"].update(
        merges=[" ".join(pair) if isinstance(pair, list) else pair for pair in content["model"]["merges"]]
    ),
    "digits apart where it joins none": lambda content: content.update(
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, content["pre_tokenizer"]],
        }
    ),
    "the order of its keys": lambda content: json.dumps(dict(reversed(content.items()))),
}
OTHER = {
    "a merge less": lambda content: content["model"]["merges"].pop(),
    "no front token": lambda content: content.update(post_processor=None),
    "a space put before a text": lambda content: content["pre_tokenizer"].update(add_prefix_space=True),
    "typographic quotes made plain": lambda content: content.update(
        normalizer={"type": "Replace", "pattern": {"String": "“"}, "content": '"'}
    ),
    "no decoder": lambda content: content.update(decoder=None),
    "another decoder": lambda content: content.update(decoder={"type": "WordPiece", "prefix": "##", "cleanup": True}),
    "lower case": lambda content: content.update(normalizer={"type": "Lowercase"}),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_other_bytes_are_the_same_tokenizer(folder, change):
    before = tokenizer_identity(folder)
    assert before == behaviour(read_tokenizer(folder))
    assert rewritten(folder, change) == before


@pytest.mark.parametrize("change", OTHER.values(), ids=OTHER)
def test_what_changes_its_ids_makes_another(folder, change):
    before = tokenizer_identity(folder)
    after = rewritten(folder, change)
    assert None not in (before, after)
    assert after != before


def test_a_special_token_more_makes_another(folder):
    before = tokenizer_identity(folder)
    assert rewritten(folder, lambda content: content.update(eos_token="<s>"), "tokenizer_config.json") != before


def test_it_is_remembered_and_damage_is_read_anew(folder, monkeypatch):
    first = tokenizer_identity(folder)
    identity._identity.cache_clear()
    monkeypatch.setattr(identity, "behaviour", lambda tokenizer: "made anew")
    assert tokenizer_identity(folder) == first
    (record,) = (folder.parent / "cache" / "tokenizers").iterdir()
    record.write_text(record.read_text().replace(first[:8], "00000000"))
    identity._identity.cache_clear()
    assert tokenizer_identity(folder) == "made anew"


def test_one_that_cannot_be_loaded_has_none(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    assert tokenizer_identity(tmp_path) is None
