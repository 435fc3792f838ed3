"""The shipped series' own retrieval heads are causal: without them retrieval ends, without random matched heads not.

Ranked on eight needles and tested on eight others. Thresholds lie between the intervals measured over 16 needles at
5 depths, 8 controls each: tested heads 0 to 4 %, every layer-matched control from 90 % up (knockout: from 96 %).
"""

from pathlib import Path

import pytest

import heads
from checkpoints import open_series
from heads.prompts.needles import load_needles

FOLDER = Path(__file__).parents[3] / "series" / "first-light"


@pytest.fixture(scope="module")
def last_pretrained():
    with open_series(FOLDER).at(9000).open() as loaded:
        needles, haystack = load_needles(FOLDER / "needles.jsonl"), (FOLDER / "haystack.txt").read_text("utf-8")
        sets = [
            heads.needle_prompts(loaded.tokenizer, part, haystack, length=256, depths=(0.1, 0.5, 0.9))
            for part in (needles[:8], needles[8:16])
        ]
        yield loaded.model, heads.score(loaded.model, sets[0]), sets[1]


@pytest.mark.parametrize(("kind", "scope"), [("off", "both"), ("knockout", "decode")])
def test_without_its_retrieval_heads_the_model_retrieves_no_more(last_pretrained, kind, scope):
    model, scores, prompts = last_pretrained
    found = heads.ablate(model, prompts, scores=scores, top_k=6, kind=kind, scope=scope, controls=3)
    assert found.causal
    before, after = found.estimate(found.baseline), found.estimate(found.tested)
    assert before.value > 0.95
    assert after.value < 0.05
    assert after.high < before.low, "eight needles are enough to tell the two apart"
    for control in found.controls["layer_matched"]:
        assert found.estimate(control).value > 0.85
        assert found.estimate(control).low > after.high
    text = found.change("text_nll", "layer_matched")
    assert text.delta < 0.2, "what ends is retrieval, not language"
    if kind == "knockout":
        assert all(control.score > 0.9 and control.accuracy > 0.75 for control in found.controls["non_retrieving"])
        assert "non-retrieving controls (3, clean, no head of theirs retrieves)" in found.verdict
    assert "layer-matched controls (3, not clean" in found.verdict
