"""Repeated tokens: drawn from those given, behind what the tokenizer puts in front, and what heads then show."""

import numpy as np
import pytest
from families import build

import heads
from checkpoints import open_series
from checkpoints.errors import BadPrompt
from checkpoints.series.series import shipped_folder
from checkpoints.tokenizers.framing import front_ids
from heads.detect import repeats
from heads.detect.repeats import repeat_scores, seen_tokens
from heads.prompts.needles import load_needles


def sequences(monkeypatch, **options):
    """The ids of every sequence that is scored."""
    seen, real = [], repeats._one

    def noted(model, ids, *others):
        seen.append(ids[0].tolist())
        return real(model, ids, *others)

    monkeypatch.setattr(repeats, "_one", noted)
    scores = repeat_scores(build("llama"), block=4, repeats=2, count=2, **options)
    return seen, scores


def test_blocks_hold_the_tokens_given_behind_the_front_ones(monkeypatch):
    seen, scores = sequences(monkeypatch, tokens=[9, 5, 7, 11, 5], end=[3], front=[1, 2])
    for ids in seen:
        assert ids[:2] == [1, 2]
        assert sorted(ids[2:6]) == [5, 7, 9, 11]
        assert ids[6] == 3
        assert ids[2:7] == ids[7:]
    assert scores.meta["front"] == [1, 2]
    assert scores.meta["end"] == [3]
    assert scores.meta["drawn_from"] == [5, 7, 9, 11]
    assert scores.meta["length"] == 12


def test_without_tokens_the_whole_vocabulary_and_nothing_in_front(monkeypatch):
    seen, scores = sequences(monkeypatch)
    assert [len(ids) for ids in seen] == [8, 8]
    assert scores.meta["drawn_from"] == "vocabulary"
    assert scores.meta["front"] == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"tokens": [5]}, "two different token ids"),
        ({"tokens": [-1, 5]}, "two different token ids"),
        ({"tokens": [5, 64]}, "beyond the model's vocabulary"),
        ({"tokens": [5, 6], "end": [64]}, "beyond the model's vocabulary"),
        ({"tokens": [5, 6], "front": [50256]}, "beyond the model's vocabulary"),
    ],
)
def test_tokens_that_cannot_be_read_are_refused(options, reason):
    with pytest.raises(BadPrompt, match=reason):
        repeat_scores(build("llama"), block=4, repeats=2, count=1, **options)


def test_the_known_circuit_of_a_closed_vocabulary_is_found():
    """The shipped series learns lists of code words: one previous-token head, and induction heads above it."""
    series = open_series(shipped_folder())
    needles, haystack = load_needles(series.path / "needles.jsonl"), (series.path / "haystack.txt").read_text()
    found = {}
    for step in ("0", "4500"):
        with series.select(step)[0].open() as loaded:
            prompts = heads.needle_prompts(loaded.tokenizer, needles[:24], haystack, length=256, depths=(0.5,))
            tokens = seen_tokens(loaded.tokenizer, [prompt.answer for prompt in prompts])
            stop = prompts.prompts[0].ids[prompts.prompts[0].answer_span[1]]
            found[step] = repeat_scores(
                loaded.model, block=24, repeats=2, count=8, tokens=tokens, end=[stop], front=front_ids(loaded.tokenizer)
            )
    trained = {name: found["4500"].detector(name).mean(0) for name in ("previous_token", "induction")}
    assert np.argwhere(trained["previous_token"] > 0.9).tolist() == [[1, 0]]
    assert (trained["induction"] > 0.5).sum() >= 3
    assert (trained["induction"][:2] < 0.5).all()
    assert (found["0"].detector("induction").mean(0) < 0.1).all()
