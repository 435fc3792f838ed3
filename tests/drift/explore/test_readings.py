"""What heads read on one prompt, as the page holds it."""

from dataclasses import replace

import numpy as np

from circuit_drift.explore.head_cards import head_cards
from circuit_drift.explore.readings import Readings
from heads.scores.example import Example
from tests.drift.handmade import point, retrieval, run_of

TOKENS = ("<s>", "the", " code", " is", " 4", " 2", ".", " Code", ":", " 4", " 2")


def example(weight: float = 0.75) -> Example:
    """Head a0.h1 reads the answer's first token, then its second; the others read the first token of all."""
    index, share = np.zeros((2, 2, 2, 2), dtype=np.int32), np.zeros((2, 2, 2, 2), dtype=np.float32)
    index[..., 1], share[..., 0] = -1, 1
    index[0, 1], share[0, 1] = [[4, 0], [5, 9]], [[weight, 0.25], [0.996, 0.004]]
    return Example(np.arange(11), 9, ((4, 6),), ((1, 7),), index, share, TOKENS)


def shown(*examples: Example | None):
    return [point(10 * i, heads=replace(retrieval({(0, 1): 0.5}), example=each)) for i, each in enumerate(examples)]


def test_a_head_s_card_holds_what_it_reads_at_each_checkpoint():
    (section,) = head_cards(run_of(*shown(example(0.5), example())))
    data = section.widget.data
    assert data["example"] == {
        "labels": ["0", "10"],
        "tokens": list(TOKENS[:9]),
        "answer": [" 4", " 2"],
        "needle": [[1, 7]],
        "gold": [[4, 6]],
    }
    reads = {head["name"]: head["reads"] for head in data["heads"]}
    assert reads["a0.h1"] == [[[[4, 50], [0, 25]], [[5, 100]]], [[[4, 75], [0, 25]], [[5, 100]]]]
    assert reads["a1.h1"] == [[[[0, 100]], [[0, 100]]]] * 2


def test_there_is_nothing_to_read_where_no_example_was_kept_or_prompts_differ():
    assert Readings.of(shown(None, None), [0]) is None
    assert Readings.of(shown(replace(example(), tokens=())), [0]) is None
    assert Readings.of(shown(example(), replace(example(), ids=np.arange(11) + 1)), [0]) is None
    (section,) = head_cards(run_of(*shown(None, None)))
    assert (section.widget.data["example"], section.widget.data["heads"][0]["reads"]) == (None, [])


def test_many_heads_are_shown_at_fewer_checkpoints_the_last_among_them():
    many = shown(*[example()] * 20)
    assert Readings.of(many, range(100)).labels == ("0", "40", "80", "110", "150", "190")
    assert Readings.of(many, range(10_000)).labels == ("0", "190")


def test_an_example_that_does_not_fit_its_scores_is_told():
    cut = replace(example(), index=example().index[:, :1])
    assert list(cut.flaws((2, 2))) == ["its example of shape (2, 1, 2, 2) is none of 2 layers of 2 heads"]
    assert list(replace(example(), answer_start=8).flaws((2, 2))) == ["its example reads beyond its 11 tokens"]
    assert list(replace(example(), tokens=TOKENS[1:]).flaws((2, 2))) == ["its example has 10 texts for 11 tokens"]
    assert list(example().flaws((2, 2))) == []
