"""Every kind of statement about a run in words, from numbers written by hand."""

from circuit_drift.statements.statement import Statement
from circuit_drift.statements.wording_run import RUN_WORDS
from tests.drift.statements.test_wording import told

ONSET = {
    "head": "a17.h12",
    "threshold": 0.1,
    "after": 10_500,
    "by": 10_750,
    "low": 10_500,
    "high": None,
    "best": {"value": 0.951, "low": 0.926, "high": 0.974, "step": 119_600},
    "count": {"value": 13, "low": 11.0, "high": 15.0, "of": 1024},
    "chosen_on": 24,
    "judged_on": 24,
    "unit": "needle",
}
COUNT = "13 [11, 15] of 1,024 heads retrieve at the end."
NOBODY = {"after": None, "by": None, "low": None, "high": None}


def test_onset_is_of_one_head_with_its_interval_and_where_it_was_chosen():
    assert told("onset", **ONSET, outcome="emerged") == (
        "a17.h12 begins to retrieve (score > 0.1) between steps 10,500 and 10,750 [10,500 to …] and reaches 0.95 "
        f"[0.93, 0.97] at step 119,600 (chosen on 24 needles, judged on 24 others). {COUNT}"
    )
    assert "reaches 0.95 [0.93, 0.97] at step 119,600, ends below it (" in told("onset", **ONSET, outcome="gone again")
    other = {**ONSET, **NOBODY}
    assert told("onset", **other, outcome="not by the end").startswith(
        "No head is seen to retrieve (score > 0.1): a17.h12, the best, reaches 0.95 [0.93, 0.97] at step 119,600 ("
    )
    assert told("onset", **other, outcome="cannot be told").startswith(
        "a17.h12, the best head, reaches 0.95 [0.93, 0.97]"
    )
    assert told("onset", **other, outcome="there from the first").startswith(
        "a17.h12 is seen to retrieve (score > 0.1) f"
    )


def test_an_onset_without_halves_or_interval_says_so():
    nan = float("nan")
    few = {
        **ONSET,
        **NOBODY,
        "judged_on": 0,
        "chosen_on": 2,
        "best": {"value": 0.5, "low": nan, "high": nan, "step": "x"},
    }
    few["count"] = {"value": 1, "low": nan, "high": nan, "of": 4}
    assert told("onset", **few, outcome="") == (
        "a17.h12, the best head, reaches 0.50 (no interval: too few needles) at step x; its onset takes three "
        "checkpoints and six needles to date (chosen and judged on the same 2 needles, which flatters it). 1 of 4 "
        "heads retrieve at the end."
    )


def test_a_needle_test_that_deceives_and_checkpoints_that_failed():
    numbers = {"ratio": 0.68, "ratio_low": 0.63, "ratio_high": 0.74, "before": 1.64, "after": 1.12, "score": 0.99}
    assert told("passed", **numbers, low=0.96, high=1.0, step=4500, end=9000, stage="pretrain") == (
        "Answer perplexity falls to × 0.68 [0.63, 0.74], 1.64 → 1.12, while the needle test is passed: from step 4,500 "
        "(score 0.99 [0.96, 1.00]) to step 9,000 (stage pretrain)."
    )
    assert told("deceptive", said="needle score saturated at step 100", stage="") == (
        "Deceptive saturation: needle score saturated at step 100."
    )
    names = [f"checkpoint-{i}" for i in range(5)]
    assert told("unmeasured", n=5, of=9, names=names) == (
        "5 of 9 checkpoints could not be measured in full: checkpoint-0, checkpoint-1, checkpoint-2, checkpoint-3 and "
        "1 more."
    )


def test_every_kind_is_tested_here():
    assert RUN_WORDS.keys() == {"onset", "passed", "deceptive", "unmeasured", "null"}
    assert told("null", twin=False, words="recall 0.00") == (
        "At step 0 the model has recall 0.00: the floor of what is found here."
    )


def test_a_statement_of_one_stretch_begins_with_it_and_has_it_as_a_value():
    one = Statement("unmeasured", {"n": 1, "of": 2, "names": ["a"]}).over("0 → 9")
    assert one.text == "0 → 9: 1 of 2 checkpoints could not be measured in full: a."
    assert one.to_json()["over"] == "0 → 9"
