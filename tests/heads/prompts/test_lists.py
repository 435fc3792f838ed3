"""Common and frequent words: the answer is what the list holds most of, and the list is as long as there is room."""

from collections import Counter

import pytest

from heads.prompts.lists import LISTS, ListProbe
from heads.prompts.probes import probe


@pytest.mark.parametrize("name", ["bpe", "characters"])
@pytest.mark.parametrize("task", LISTS)
def test_the_answer_is_what_the_list_holds_most_of(tokenizers, name, task):
    tokenizer = tokenizers[name]
    length = {"characters": 3000}.get(name, 700)
    found = ListProbe(task, 3, 0).prompts(tokenizer, length=length)
    assert len(found) == 3
    for prompt in found:
        assert length - 60 < prompt.answer_start <= length
        listed = prompt.text.split("\n")[1].split()
        counts = Counter(word for word in listed if word != "..." and not word.rstrip(".").isdecimal())
        answer = tokenizer.decode(prompt.answer).strip()
        if task == "ruler_cwe":
            top = sorted(word for word, _ in counts.most_common(10))
            tenth, eleventh = (n for _, n in counts.most_common(11)[9:])
        else:
            top = [word for word, _ in counts.most_common(3)]
            tenth, eleventh = (n for _, n in counts.most_common(4)[2:])
            assert len({n for _, n in counts.most_common(4)}) == 4
        assert tenth > eleventh
        if name == "characters":
            assert answer.replace(" ", "") == ", ".join(top).replace(" ", "")


def test_a_list_that_has_no_room_is_refused_with_the_reason(tokenizers):
    found = ListProbe("ruler_cwe", 2, 0).prompts(tokenizers["words"], length=20)
    assert len(found) == 0
    assert "the shortest list of ruler_cwe takes" in found.refused[0][1]
    unknown = ListProbe("ruler_fwe", 1, 0).prompts(tokenizers["words"], length=300)
    assert "the tokenizer does not know all of answer" in unknown.refused[0][1]


def test_lists_are_drawn_from_name_seed_and_number(tokenizers):
    one, again, other = (ListProbe("ruler_fwe", 2, seed).prompts(tokenizers["bpe"], length=300) for seed in (0, 0, 1))
    assert [p.ids for p in one] == [p.ids for p in again]
    assert [p.ids for p in one] != [p.ids for p in other]
    assert ListProbe("ruler_fwe", 2, 0).haystack != ListProbe("ruler_fwe", 2, 1).haystack


@pytest.mark.parametrize(("name", "times"), [("mrcr_2", 2), ("mrcr", 4), ("mrcr_8", 8)])
def test_mrcr_asks_for_one_of_two_four_or_eight_answers(name, times):
    needles = probe(name, count=8).needles
    assert {len(needle.distractors) for needle in needles} == {times - 1}
    assert sorted({needle.rank for needle in needles}) == list(range(times))
    assert all(("first", "second", "eighth")[min(needle.rank, 2)] in needle.question for needle in needles[:2])


def test_question_answering_asks_for_a_name_that_one_document_states():
    made = probe("ruler_qa", count=6)
    for needle in made.needles:
        assert needle.needle.count(needle.answer) == 1
        assert not any(needle.answer in document for document in made.haystack)
        assert needle.question.removeprefix("\nQuestion: Who built the ").split(" house of ")[0] in needle.needle
