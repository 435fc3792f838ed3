import pytest

import heads
from checkpoints.errors import BadPrompt
from heads import Needle, needle_prompts
from heads.needles import continuation

HAYSTACK = heads.default_haystack(0)
DEPTHS = (0.0, 0.5, 1.0)


@pytest.mark.parametrize("name", ["words", "bpe", "characters"])
def test_spans_hold_what_they_say_for_any_tokenizer(tokenizers, name):
    tokenizer = tokenizers[name]
    length = 2000 if name == "characters" else 400
    needles = heads.default_needles(0, count=6)
    made = needle_prompts(tokenizer, needles, HAYSTACK, length=length, depths=DEPTHS)
    assert not made.refused
    assert len(made) == 18
    for prompt in made:
        needle = needles[prompt.needle]
        assert prompt.answer_start == length
        assert prompt.ids[slice(*prompt.answer_span)] == prompt.answer
        assert prompt.ids.count(tokenizer.bos_token_id) == 1
        assert prompt.ids[0] == tokenizer.bos_token_id
        assert plain(tokenizer.decode(prompt.answer)) == plain(needle.answer)
        assert plain(tokenizer.decode(prompt.ids[slice(*prompt.needle_span)])) == plain(needle.needle)
        (distractor,) = prompt.distractor_spans
        assert plain(tokenizer.decode(prompt.ids[slice(*distractor)])) == plain(needle.distractors[0])
        assert len(prompt.answer) >= 10


def plain(text):
    return "".join(text.split())


def test_depth_achieved_is_a_sentence_boundary_near_the_one_requested(tokenizers):
    tokenizer = tokenizers["words"]
    made = needle_prompts(tokenizer, heads.default_needles(0, count=2), HAYSTACK, length=600, depths=(0, 0.3, 0.7, 1))
    for prompt in made:
        assert -0.01 <= prompt.requested_depth - prompt.depth < 0.1
        before = tokenizer.decode(prompt.ids[prompt.needle_span[0] - 1])
        assert prompt.needle_span[0] == 1 or before.strip() == "."


def test_same_seed_same_prompts_and_another_seed_others(tokenizers):
    def make(seed):
        needles = heads.default_needles(3)
        return needle_prompts(tokenizers["bpe"], needles, HAYSTACK, length=300, depths=DEPTHS, seed=seed).hash

    assert make(0) == make(0) != make(1)


def test_a_short_haystack_runs_on_from_its_beginning(tokenizers):
    made = needle_prompts(tokenizers["words"], heads.default_needles(0), "A quiet day. ", length=300, depths=[0.5])
    assert len(made) == 12


@pytest.mark.parametrize(
    ("needle", "reason"),
    [
        (Needle("The code is red.", "blue", "The code is"), "stands 0 times"),
        (Needle("The code is red red.", "red", "The code is"), "stands 2 times"),
        (Needle("The code is carpenter.", "carp", "The code is"), "merges answer"),
        (Needle("The ferry passed.", "ferry passed", "The ferry"), "also stands in the haystack"),
        (Needle("The code is red green.", "red green", "Say red green: the code is"), "also stands in the question"),
        (Needle("The code <bos> is red.", "red", "The code is"), "BOS token"),
        (Needle("word " * 400 + "is red.", "red", "The code is"), "longer than the prompt"),
    ],
)
def test_a_needle_that_cannot_be_scored_is_refused_with_the_reason(tokenizers, needle, reason):
    good = heads.default_needles(0, count=1)[0]
    haystack = "The ferry passed. It was a quiet day. " * 20
    made = needle_prompts(tokenizers["bpe"], [needle, good], haystack, length=300, depths=[0.0, 0.5])
    (refusal,) = made.refused
    assert refusal[0] == 0
    assert reason in refusal[1]
    assert {p.needle for p in made} == {1}


@pytest.mark.parametrize("depths", [[], [1.2], [-0.1]])
def test_impossible_depths_are_named(tokenizers, depths):
    with pytest.raises(BadPrompt, match="depths"):
        needle_prompts(tokenizers["words"], heads.default_needles(0), HAYSTACK, length=300, depths=depths)


def test_an_empty_haystack_is_named(tokenizers):
    with pytest.raises(BadPrompt, match="haystack is empty"):
        needle_prompts(tokenizers["words"], heads.default_needles(0), "", length=300, depths=[0.5])


def test_a_piece_is_tokenized_as_it_stands_in_running_text(tokenizers):
    tokenizer = tokenizers["bpe"]
    running = tokenizer.encode("It passed. The ferry", add_special_tokens=False)
    assert tuple(running[-2:]) == continuation(tokenizer, "The ferry")[-2:]


def test_needles_are_read_from_jsonl(tmp_path):
    path = tmp_path / "needles.jsonl"
    path.write_text(
        '{"needle": "A is b.", "answer": "b", "question": "A is", "labels": {"k": 1}}\n\n'
        '{"needle": "C is d.", "answer": "d", "question": "C is", "distractors": ["E is f."]}\n'
    )
    first, second = heads.load_needles(path)
    assert first.labels == {"k": 1}
    assert second.distractors == ("E is f.",)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no needle"),
        ("not json", "line 1 is not JSON"),
        ("[1]", "no JSON object"),
        ('{"needle": "A"}', "non-empty strings"),
        ('{"needle": "A b", "answer": "b", "question": "A", "colour": 1}', "unknown fields"),
    ],
)
def test_a_bad_needle_file_is_named_with_its_line(tmp_path, text, reason):
    path = tmp_path / "needles.jsonl"
    path.write_text(text)
    with pytest.raises(BadPrompt, match=reason):
        heads.load_needles(path)


def test_a_missing_needle_file_is_named(tmp_path):
    with pytest.raises(BadPrompt, match="cannot read needles"):
        heads.load_needles(tmp_path / "none.jsonl")
