"""The series' own tokenizer: every word of the lab, with the space before it, is one token."""

from __future__ import annotations

from string import Formatter
from typing import TYPE_CHECKING

from circuit_drift.lab import documents, world

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
MARKS = (".", ",")


def vocabulary() -> tuple[str, ...]:
    """Every word that the generators can write, in a fixed order."""
    frames = [documents.QUESTION, *documents.LIST_STYLES, *documents.SENTENCES, *documents.MOMENTS]
    pools = [documents.CODE_WORDS, documents.ADJECTIVES, documents.NOUNS, documents.QUALITIES, documents.MANNERS]
    pools += [words for topic in documents.TOPICS for words in (topic.things, topic.verbs, topic.places)]
    pools += [world.FIRST_NAMES, world.LAST_NAMES]
    for relation in world.RELATIONS:
        frames += [*relation.templates, relation.held_out]
        pools.append(relation.values)
    words = [word for frame in frames for word in _literal_words(frame)]
    words += [word for pool in pools for word in pool]
    return tuple(dict.fromkeys(words))


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer over `vocabulary`, which puts ``<bos>`` in front and knows no other word.

    A text reads the same whether it begins with a space or not, so that texts split between words can be
    tokenized apart and joined.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = [PAD, BOS, EOS, UNKNOWN, *MARKS, *(f"Ġ{word}" for word in vocabulary())]  # Ġ: the byte-level space
    ids = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, ids[BOS])]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        model_max_length=1024,
    )


def _literal_words(frame: str) -> list[str]:
    """Words of a format string, without its fields and marks."""
    literal = " ".join(text for text, *_ in Formatter().parse(frame))
    return "".join(" " if mark in MARKS else mark for mark in literal).split()
