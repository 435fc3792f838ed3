"""What stands around a text: the tokenizer's own tokens in front, and a space only where running text has one."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from checkpoints.tokenizers.framing import front_ids, gap, prompt_ids

WORDS = ["<unk>", "<s>", "</s>", "[gMASK]", "<sop>", "Paris", "is"]


def tokenizer(template, **special):
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template is not None:
        named = [(word, made.token_to_id(word)) for word in WORDS if word in template]
        made.post_processor = TemplateProcessing(single=template, special_tokens=named)
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", **special)


@pytest.mark.parametrize(
    ("template", "special", "front"),
    [
        (None, {}, ()),
        (None, {"bos_token": "<s>"}, ()),  # declared, never put there: GPT-2, Qwen, SmolLM2
        ("<s> $A", {"bos_token": "<s>"}, (1,)),
        ("<s> $A", {}, (1,)),  # put there, never declared
        ("<s> $A", {"bos_token": "</s>"}, (1,)),  # declared as another one
        ("[gMASK] <sop> $A", {}, (3, 4)),
        ("$A </s>", {"eos_token": "</s>"}, ()),
        ("<s> $A </s>", {"bos_token": "<s>", "eos_token": "</s>"}, (1,)),
    ],
)
def test_in_front_stands_what_the_tokenizer_itself_puts_there(template, special, front):
    made = tokenizer(template, **special)
    assert front_ids(made) == front
    assert prompt_ids(made, "Paris is") == (*front, 5, 6)
    assert prompt_ids(made, "") == front


def test_a_text_that_begins_with_it_gets_no_second_one():
    made = tokenizer("<s> $A", bos_token="<s>")
    assert prompt_ids(made, "<s> Paris is") == (1, 5, 6)


@pytest.mark.parametrize(
    ("before", "after", "between"),
    [
        ("Paris is the capital of", "France", " "),
        ('She said: "', "Yes", ""),
        ("He said '", "ok", ""),
        ("il a dit «", "oui", ""),
        ("„Ja“", "sagte er", " "),
        ('He said "no"', "and left", " "),
        ("the boys'", "hats", " "),
        ("the year 1732 to the year 17", "45", ""),
        ("it costs 3.", "14", ""),
        ("It cost 3.", "Then", " "),
        ("He was born in 1990.", "12 people", " "),
        ("In 1990,", "12", " "),
        ("1, 2, 3,", "4", " "),
        ("it has 12,", "000", ""),
        ("it has 1,234,", "567", ""),
        ("x = -", "5", ""),
        ("10 -", "5", " "),
        ("Dice: ¿", "Qué", ""),
        ("**Answer:**", "Paris", " "),
        ("It is **", "Paris", ""),
        ("x**", "2", ""),
        ("report_", "final", ""),
        ("(", "A", ""),
        ("see www.", "com", ""),
        ("at https://example.", "org", ""),
        ("it costs $", "5", ""),
        ("self-", "made", ""),
        ("from 3 -", "x", " "),
        ("4 + 5 =", "9", " "),
        ("x=", "9", ""),
        ("Paris is", "'s", ""),
        ("Paris", ", yes", ""),
        ("Q: a\nA:\n", "b", ""),
        ("Answer: ", "b", ""),
        ("Answer:", " b", ""),
        ("法国的首都是", "巴黎", ""),
        ("法国的首都是:", "巴黎", ""),
        ("他说：“", "好", ""),
        ("日本の首都は", "東京", ""),
        ("เมืองหลวงคือ", "ปารีส", ""),
        ("फ्रांस की राजधानी", "पेरिस", " "),
        ("عاصمة فرنسا هي", "باريس", " "),
        ("수도는", "파리", " "),
        ("The word for cat is", "猫", " "),
    ],
)
def test_a_space_only_where_running_text_has_one(before, after, between):
    assert gap(before, after) == between
    assert gap(before, after, True) == " "
    assert gap(before, after, False) == ""
