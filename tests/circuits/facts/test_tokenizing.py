"""Facts in tokens: the tokenizer's own front, the space of running text, and answers of several tokens."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

import circuits
from checkpoints.errors import BadPrompt
from circuits.facts.facts import FactSet, load_facts
from circuits.facts.metrics import find_metric
from circuits.facts.tokenizing import readable


@pytest.fixture(scope="module")
def tokenizer():
    """Byte-level, every word of the texts one token: with and without a space before it."""
    words = ["Yes", "No", "45", "01", "final", "draft", "A", "B", "com", "org", "Rome", "Oslo", "York", "New"]
    pieces = ["<unk>", "[gMASK]", "<sop>"]
    pieces += sorted(pre_tokenizers.ByteLevel.alphabet())
    made = {piece: i for i, piece in enumerate(pieces)}
    merges = []
    for word in words:
        parts = [(word[: end - 1], word[end - 1]) for end in range(2, len(word) + 1)]
        for first, second in [*parts, ("Ġ", word)]:
            if first + second not in made:
                made[first + second] = len(made)
                merges.append((first, second))
    model = Tokenizer(models.BPE(made, merges))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    front = [(piece, made[piece]) for piece in ("[gMASK]", "<sop>")]
    model.post_processor = TemplateProcessing(single="[gMASK] <sop> $A", special_tokens=front)
    return PreTrainedTokenizerFast(tokenizer_object=model)


SPELLED = [
    ('She said: "', "Yes", "No", "Yes"),
    ("She said:", "Yes", "No", " Yes"),
    ("report_", "final", "draft", "final"),
    ("(", "A", "B", "A"),
    ("see www.", "com", "org", "com"),
    ("It is", "Rome", "Oslo", " Rome"),
    ("It is", " Rome", " Oslo", " Rome"),
    ("It is:\n", "Rome", "Oslo", "Rome"),
]


@pytest.mark.parametrize(("prompt", "answer", "wrong", "scored"), SPELLED)
def test_the_answer_is_scored_as_the_text_goes_on(tokenizer, prompt, answer, wrong, scored):
    made = circuits.tokenize_facts(tokenizer, [circuits.Fact(prompt, f"x{prompt[1:]}", answer, wrong)], answers="whole")
    pieces = tokenizer.convert_ids_to_tokens(list(made.answer[0]))
    assert "".join(pieces).replace("Ġ", " ") == scored
    assert made.clean[0][:2] == made.front == (1, 2)


def test_a_file_says_whether_there_is_a_space(tokenizer, tmp_path):
    path = tmp_path / "facts.jsonl"
    record = {"clean": "It is", "corrupt": "He is", "answer": "Rome", "wrong": "Oslo"}
    path.write_text("".join(json.dumps({**record, "space": space}) + "\n" for space in (True, False, None, "no")))
    facts = load_facts(path)
    assert [fact.space for fact in facts] == [True, False, None]
    assert "space says whether" in facts.refused[0][1]
    made = circuits.tokenize_facts(tokenizer, facts, answers="whole")
    assert [tokenizer.convert_ids_to_tokens(ids[0]) for ids in made.answer] == ["ĠRome", "Rome", "ĠRome"]


def test_by_itself_whole_answers_only_where_most_would_be_refused(tokenizer, caplog):
    long = [circuits.Fact("It is", "He is", " New York", " New Rome")] * 3
    short = [circuits.Fact("It is", "He is", " Rome", " Oslo")] * 2
    made = circuits.tokenize_facts(tokenizer, [*long, *short], answers="auto")
    assert (made.answers, len(made), len(made.refused)) == ("whole", 5, 0)
    assert "2 of 5 facts have answers of one token, so whole answers are scored" in caplog.text
    made = circuits.tokenize_facts(tokenizer, [*long[:1], *short], answers="auto")
    assert (made.answers, len(made), len(made.refused)) == ("one token", 2, 1)
    hopeless = [circuits.Fact("It is", "It is", " New York", " New Rome")]
    with pytest.raises(BadPrompt, match="none of 1 facts"):
        circuits.tokenize_facts(tokenizer, hopeless, answers="auto")


def test_a_logit_difference_leaves_out_by_name_what_it_cannot_pair(tokenizer):
    even, other = circuits.Fact("It is", "He is", " Rome", " Oslo"), circuits.Fact("It is", "He is", " No", " Oslo")
    uneven = circuits.Fact("It is", "He is", " New York", " Oslo")
    same = circuits.Fact("It is", "It is", " Rome", " Oslo")
    whole = circuits.tokenize_facts(tokenizer, [same, uneven, even, other], answers="whole")
    kept = readable(whole, "logit difference")
    assert [fact.answer for fact in kept.facts] == [" Rome", " No"]
    assert [index for index, _ in kept.refused] == [0, 1]
    answers = [len(ids) for ids in (whole.answer[0], whole.wrong[0])]
    assert kept.refused[1][1].startswith(f"the answer has {answers[0]} tokens and the wrong answer {answers[1]}; ")
    assert find_metric("logit difference", kept)[0] == "logit difference"
    assert readable(whole, "log probability") is whole
    alone = circuits.tokenize_facts(tokenizer, [uneven], answers="whole")
    with pytest.raises(BadPrompt, match=r"none of 1 facts.*--metric 'log probability'"):
        readable(alone, "logit difference")


def test_ids_given_by_hand_say_what_stands_in_front():
    facts = FactSet.from_ids([[1, 2, 5, 6]], [[1, 2, 7, 6]], [9], [10], front=[1, 2])
    from circuits.roles.measure import _in_front

    assert _in_front(facts, np.array(facts.clean[0]), 7).tolist() == [True, True, False, False]
    untold = FactSet.from_ids([[1, 2, 5, 6]], [[1, 2, 7, 6]], [9], [10])
    assert _in_front(untold, np.array(untold.clean[0]), 1).tolist() == [True, False, False, False]
    assert facts.subset([0]).front == (1, 2)
