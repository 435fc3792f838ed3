"""What stands around a text once it is token ids: one rule for needles, facts, repeated tokens and every probe.

In front of a prompt stands what the tokenizer itself puts in front of a text: one token, several (``[gMASK]<sop>``), or
none, whatever it declares as its BOS token and whatever the model's config says. Behind a prompt nothing is put.
Between a prompt and its answer stands a space only where running text has one.
"""

from typing import TYPE_CHECKING

import regex

from checkpoints.errors import BadPrompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = tuple[int, ...]

UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]"
"""Letters of scripts that put no space between words."""
_WIDE = r"[\u3000-\u303f\uff00-\uffef]"
_QUOTE = r"[\p{Pi}\p{Pf}\"'`]"
_NO_SPACE_AFTER = regex.compile(
    rf"""  \s$                                        # white space
         | [\p{{Ps}}$£€¥#@_¿¡/\\]$                     # an opening bracket, or a sign that stands before its word
         | (?:^|[\s\p{{Ps}}=:,]|{_WIDE}){_QUOTE}$    # a quote that opens
         | \S[-–—=+&~^<>|]$                          # a sign in the middle of a word
         | [^\s.:!?;,*]\*+$ | (?:^|\s)\*\*+$          # the same, or bold text that opens
         | [=:(\[]\s*[-−+]$                           # the sign of a number
         | (?:^|\s)(?:www\.|\w+://)\S*$              # an address
         | (?:{_WIDE}|{UNSPACED})$
    """,
    regex.VERBOSE,
)
_NO_SPACE_BEFORE = regex.compile(rf"\s|[\p{{Pe}}.,;:!?…%°]|{_WIDE}|['’](?:s|t|d|m|re|ll|ve)\b")
_NUMBER_GOES_ON = (  # digits; a decimal part, but not of a year; three digits of a longer number
    (regex.compile(r"\p{Nd}$"), regex.compile(r"\p{Nd}")),
    (regex.compile(r"(?<!\p{Nd})\p{Nd}{1,3}\.$"), regex.compile(r"\p{Nd}")),
    (regex.compile(r"(?<![\p{Nd},])\p{Nd}{1,3}(?:,\p{Nd}{3})*,$"), regex.compile(r"\p{Nd}{3}(?!\p{Nd})")),
)
_LAST_LETTER = regex.compile(rf"{UNSPACED}\P{{L}}*$")


def front_ids(tokenizer: "PreTrainedTokenizerBase") -> Ids:
    """Ids of the tokens that the tokenizer itself puts in front of a text; empty where it puts none.

    Raises:
        BadPrompt: with its own tokens around it, it splits a text otherwise than without.
    """
    return _in_front(tokenizer, "a", _encoded(tokenizer, "a", special=False))


def prompt_ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> Ids:
    """Ids of a prompt: what the tokenizer puts in front, unless the text begins with it, and nothing at the end."""
    plain = _encoded(tokenizer, text, special=False)
    front = _in_front(tokenizer, text, plain) if plain else front_ids(tokenizer)
    return plain if front and plain[: len(front)] == front else front + plain


def chat_ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> Ids:
    """Ids of a text as a user's turn of the tokenizer's chat template, up to where the answer begins.

    Raises:
        BadPrompt: it has no template, or one that takes no lone user's turn.
    """
    turn = [{"role": "user", "content": text}]
    try:
        found = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # whatever a template of somebody else's raises
        reason = " ".join(str(error).split())[:200]
        raise BadPrompt(
            f"{type(tokenizer).__name__} cannot put a prompt into a chat: {reason}; ask without chat"
        ) from error
    return _encoded(tokenizer, str(found), special=False)


def _in_front(tokenizer: "PreTrainedTokenizerBase", text: str, plain: Ids) -> Ids:
    full = _encoded(tokenizer, text, special=True)
    for at in range(len(full) - len(plain) + 1):
        if full[at : at + len(plain)] == plain:
            return full[:at]
    raise BadPrompt(
        f"{type(tokenizer).__name__} splits {text[:40]!r} otherwise with its special tokens around it than without, so "
        "what it puts in front of a prompt cannot be told; use a tokenizer that only adds tokens around a text"
    )


def gap(before: str, after: str, space: bool | None = None) -> str:
    """What stands between a text and what follows it, where neither has white space there: a space or nothing.

    Args:
        before: the text, a prompt.
        after: what follows, an answer.
        space: whether there is a space; None decides as running text is written: none after an opening quote or
            bracket, inside a number, an address or a hyphenated word, before closing punctuation, and in scripts that
            put none between words.
    """
    if space is not None:
        return " " if space else ""
    if not before or not after or _NO_SPACE_AFTER.search(before) or _NO_SPACE_BEFORE.match(after):
        return ""
    if any(ends.search(before) and begins.match(after) for ends, begins in _NUMBER_GOES_ON):
        return ""
    return "" if unspaced(after) and _LAST_LETTER.search(before) else " "


def unspaced(text: str) -> bool:
    """Whether a text begins in a script that puts no space between words."""
    return regex.match(f"{UNSPACED}|{_WIDE}", text) is not None


def _encoded(tokenizer: "PreTrainedTokenizerBase", text: str, *, special: bool) -> Ids:
    return tuple(tokenizer(text, add_special_tokens=special).input_ids)
