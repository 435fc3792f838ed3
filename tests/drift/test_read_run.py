"""What is read of a run: its sentences and its table, on points made by hand."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from checkpoints.errors import BadPrompt
from circuit_drift.cli.render import print_run
from circuit_drift.record.recall import recall_by_class, recall_change, recalled, recalled_facts
from circuit_drift.record.training_log import logged_losses
from circuit_drift.report.run_table import run_frame
from circuit_drift.report.verdict import run_statements, run_verdict
from circuit_drift.stages.stages import continued, line, stage_ends, stages, tokens_in_stage, track_circuit
from tests.drift.handmade import WIRING_A, WIRING_B, faithfulness, graph, point, retrieval, run_of, strengths

LOG = "step,train_loss,lr\n0,4.5,1\n100,2.25,1\n,9,1\n200,,1\n"


def _nll(perplexity: float) -> float:
    return math.log(perplexity)


def _scored(*values: float, perplexities=None, **other):
    """A run whose best head, a1.h0, scores these values in turn, at steps 0, 100, 200, …"""
    falls = perplexities or [1.0] * len(values)
    return run_of(
        *(
            point(100 * i, heads=retrieval({(1, 0): value}, nll=_nll(falls[i]), **other))
            for i, value in enumerate(values)
        )
    )


def _about(run, word: str) -> list[str]:
    return [sentence for sentence in run_verdict(run) if word in sentence]


def test_when_heads_begin_to_retrieve_and_where_they_are_best():
    run = _scored(0.0, 0.0625, 0.25, 0.75, 0.5)
    assert run_verdict(run)[0] == (
        "a1.h0 begins to retrieve (score > 0.1) between steps 100 and 200 [100 to 200] and reaches 0.75 "
        "[0.36, 0.88] at step 300 (chosen on 5 needles, judged on 5 others). 1 (no interval: "
        "too few needles) of 4 heads retrieve at the end."
    )


def test_heads_that_retrieve_from_the_first_checkpoint_on():
    two = run_of(
        point(0, heads=retrieval({(1, 0): 0.5})), point(100, heads=retrieval({(0, 0): 0.25, (0, 1): 0.75, (1, 1): 0.5}))
    )
    assert run_verdict(two)[0] == (
        "a0.h1, the best head, reaches 0.75 [0.36, 0.88] at step 100; its onset takes three checkpoints and six "
        "needles to date (chosen on 5 needles, judged on 5 others). 3 (no interval: too few "
        "needles) of 4 heads retrieve at the end."
    )
    first = run_verdict(_scored(0.5, 0.75, 0.5))[0]
    assert first.startswith("a1.h0 is seen to retrieve (score > 0.1) from the first checkpoint on, and reaches 0.75 ")


def test_no_head_that_retrieves():
    assert run_verdict(_scored(0.0, 0.0625, 0.03125)) == (
        "No head is seen to retrieve (score > 0.1): a1.h0, the best, reaches 0.06 [0.03, 0.55] at step 100 (chosen on "
        "5 needles, judged on 5 others). 0 (no interval: too few needles) of 4 heads retrieve at the end.",
    )


def test_the_head_is_chosen_on_other_needles_than_it_is_dated_on():
    """a0.h0 retrieves on the needles that choose and never on those that judge: noise that a maximum would report."""
    lucky, dull = [1.0, 0.0] * 5, [0.0] * 10
    steps = [point(100 * i, heads=retrieval({(0, 0): lucky if i else dull, (1, 1): 0.375})) for i in range(4)]
    (onset,) = (statement for statement in run_statements(run_of(*steps)) if statement.kind == "onset")
    assert onset.numbers["head"] == "a0.h0"
    assert onset.numbers["best"]["value"] == 0.0
    assert onset.numbers["outcome"] == "not by the end"
    assert (onset.numbers["chosen_on"], onset.numbers["judged_on"]) == (5, 5)


def test_five_needles_are_too_few_for_two_halves():
    run = run_of(*(point(i, heads=retrieval({(1, 0): 0.25}, prompts=5)) for i in range(3)))
    assert run_verdict(run)[0].startswith(
        "a1.h0, the best head, reaches 0.25 [0.12, 0.64] at step 0; its onset takes three checkpoints and six needles "
        "to date (chosen and judged on the same 5 needles, which flatters it)."
    )


def test_the_onset_of_branches_is_told_once_where_they_share_it():
    trunk = [point(i, heads=retrieval({(1, 0): 0.5 * (i > 10)})) for i in (10, 20, 30)]
    ends = [
        point(40, stage="late", branch=name, heads=retrieval({(1, 0): high}))
        for name, high in (("a", 0.75), ("b", 0.75))
    ]
    run = run_of(*trunk, *ends)
    (onset,) = (told for told in run_statements(run) if told.kind == "onset")
    assert onset.text.startswith("branch a: a1.h0 begins to retrieve (score > 0.1) between steps 10 and 20 ")


def test_a_head_retrieves_above_a_tenth_and_not_at_it():
    """0.1 in float32 is a little above 0.1, so the verdict's own threshold is met on values a step away from it."""
    assert run_verdict(_scored(0.0, 0.0996, 0.0996))[0].startswith("No head is seen to retrieve (score > 0.1): a1.h0, ")
    begins = "a1.h0 begins to retrieve (score > 0.1) between steps 0 and 100 "
    assert run_verdict(_scored(0.0, 0.1016, 0.1016))[0].startswith(begins)


def test_a_run_without_retrieval_scores_says_nothing_of_heads():
    assert run_verdict(run_of(point(0, circuit=graph(strengths(WIRING_A))))) == ()


def _passing(scores, perplexities, *, tokens=None, stage=None, branch=None):
    """Points that pass so many of ten needles, at steps 100, 200, 400, …"""
    return [
        point(
            100 * 2**i,
            tokens=tokens and tokens[i],
            stage=stage,
            branch=branch,
            heads=retrieval({(1, 0): 0.5}, accepted=passed, nll=_nll(perplexity)),
        )
        for i, (passed, perplexity) in enumerate(zip(scores, perplexities, strict=True))
    ]


def test_a_needle_test_that_is_passed_before_the_perplexity_has_fallen():
    run = run_of(*_passing([2, 10, 10, 10, 10], [9, 8, 6.9, 6.8, 6.8]))
    assert _about(run, "is passed") == [
        "Answer perplexity falls to × 0.85 [0.85, 0.85], 8.00 → 6.80, while the needle test is passed: from step 200 "
        "(score 1.00 [0.69, 1.00]) to step 1,600."
    ]
    later = run_of(*_passing([10, 2, 10, 10, 10, 10], [9, 9, 8, 7.05, 6.95, 7], stage="one"))
    assert _about(later, "is passed") == [
        "Answer perplexity falls to × 0.87 [0.87, 0.87], 8.00 → 7.00, while the needle test is passed: from step 400 "
        "(score 1.00 [0.69, 1.00]) to step 3,200 (stage one)."
    ]


def test_what_the_statements_of_a_run_rest_on():
    run = run_of(*_passing([2, 10, 10, 10, 10], [9, 8, 6.9, 6.8, 6.8], stage="one"))
    onset, passed = run_statements(run)
    assert onset.basis == "head chosen on 5 needles, dated and scored on 5 others; 95 % intervals over them"
    assert passed.basis == (
        "paired over needles, beyond the scatter of later checkpoints; passed: 0.95, at every later one too"
    )
    assert passed.kind == "passed"
    told = passed.numbers
    assert {name: told[name] for name in ("step", "end", "stage", "score", "high")} == {
        "step": 200, "end": 1600, "stage": "one", "score": 1.0, "high": 1.0
    }  # fmt: skip
    assert [told[name] for name in ("before", "after", "ratio", "ratio_low", "ratio_high")] == pytest.approx(
        [8, 6.8, 0.85, 0.85, 0.85], rel=1e-6
    )
    assert {name: onset.numbers[name] for name in ("head", "threshold", "first", "last", "chosen_on", "judged_on")} == {
        "head": "a1.h0", "threshold": 0.1, "first": 100, "last": 1600, "chosen_on": 5, "judged_on": 5
    }  # fmt: skip
    few = _scored(0.0, 0.5, prompts=5)
    (alone,) = run_statements(few)
    assert alone.basis == "head chosen on 5 needles, dated and scored on the same; 95 % intervals over them"
    still = run_of(*_passing([10] * 6, [math.exp(2 - 0.1 * i) for i in range(6)], stage="two"))
    deceptive = next(told for told in run_statements(still) if told.kind == "deceptive")
    assert deceptive.basis == (
        "the test is still, and answer NLL moves, per doubling; over needles and scatter between checkpoints"
    )
    assert (deceptive.numbers["metric"], deceptive.numbers["step"], deceptive.numbers["stage"]) == (
        "needle_score", 100, "two"
    )  # fmt: skip
    assert [deceptive.numbers[name] for name in ("slope", "low", "high")] == pytest.approx([math.exp(-0.1)] * 3)


@pytest.mark.parametrize(
    ("passed", "perplexities"),
    [
        ([2, 10, 10], [8, 8, 7.28]),  # falls by 9 %
        ([10, 10, 10], [8, 6, 4]),  # passed from the first on: nothing seen to begin
        ([2, 9, 9], [8, 8, 4]),  # never passed
        ([2, 10, 9], [8, 8, 4]),  # not for good
        ([2, 10, 10], [8, 4, 5]),  # lowest where it is passed
        ([2, 10, 10, 10], [8, 8, 4, 7.5]),  # not by the end
        ([2, 10, 10, 10], [9, 8, 6.8, 6.8]),  # two later checkpoints, whose scatter nobody knows
        ([2, 10, 10, 10, 10], [9, 8, 6.4, 8, 6.8]),  # no lower than they lie apart
    ],
)
def test_no_such_sentence_otherwise(passed, perplexities):
    assert _about(run_of(*_passing(passed, perplexities)), "is passed") == []


def test_a_needle_test_is_passed_at_ninety_five_of_a_hundred():
    def points(last):
        passed = (10, last, 100, 100, 100)
        return [
            point(i + 1, heads=retrieval({(1, 0): 0.5}, prompts=100, accepted=n, nll=_nll(p)))
            for i, (n, p) in enumerate(zip(passed, (8, 8, 4, 4, 4), strict=True))
        ]

    assert len(_about(run_of(*points(95)), "(score 0.95 [")) == 1
    assert _about(run_of(*points(94)), "is passed") == []


def test_two_checkpoints_are_too_few_and_one_at_step_0_does_not_count():
    assert _about(run_of(*_passing([2, 10], [8, 4])), "falls") == []
    first, *rest = _passing([2, 10, 10], [8, 8, 4])
    assert _about(run_of(replace(first, step=0), *rest), "falls") == []


def test_a_needle_test_that_is_over_while_the_perplexity_still_falls():
    """All needles alike: intervals have no width. NLL falls by 0.1 nats per doubling: 1 - e^-0.1 = 9.5 %."""
    steps = _passing([10] * 6, [math.exp(2 - 0.1 * i) for i in range(6)], stage="two")
    run = run_of(point(50, stage="one", heads=retrieval()), *steps)
    assert _about(run, "eceptive") == [
        "Deceptive saturation: needle score saturated at step 100; answer PPL still falls 9.5 % [9.5, 9.5] per "
        "doubling after it (stage two)."
    ]


def _facts(*known: int, step: int, stage: str | None, branch: str | None = None):
    """Ten facts, five old and five new, of which so many of each are recalled."""
    old, new = known
    recalled = [i % 5 < (old if i < 5 else new) for i in range(10)]
    labels = [{"class": "old" if i < 5 else "new"} for i in range(10)]
    return point(step, stage=stage, branch=branch, circuit=graph(strengths(WIRING_A), known=recalled, labels=labels))


def test_what_a_stage_did_to_each_class_of_facts():
    run = run_of(
        _facts(4, 1, step=10, stage="one"),
        _facts(5, 0, step=20, stage="one"),
        _facts(3, 1, step=30, stage="two"),
        _facts(2, 5, step=40, stage="two"),
        _facts(1, 4, step=50, stage="two"),
    )
    assert run_verdict(run)[2:] == (
        "20 → 50: Recall 0.50 → 0.50 of 10 facts: 4 lost, 4 learned; 0.80 [0.44, 0.97] changed sides.",
        "20 → 50: Recall by class: old 1.00 → 0.20 (p = 0.12); new 0.00 → 0.80 (p = 0.12).",
    ), "opposite changes are counted each way"
    lost = next(told for told in run_statements(run) if told.kind == "recall" and told.numbers["over"] == "20 → 50")
    assert [lost.numbers[way] for way in ("kept", "lost", "learned", "neither")] == [1, 4, 4, 1]


def test_where_no_fact_is_recalled_nothing_is_said():
    assert run_verdict(run_of(_facts(0, 0, step=20, stage="one"), _facts(0, 0, step=30, stage="one"))) == ()


def test_branches_are_told_apart_and_the_ends_of_a_stage_compared():
    run = run_of(
        _facts(5, 0, step=20, stage="one"),
        _facts(2, 2, step=10, stage="two", branch="a"),
        _facts(3, 3, step=10, stage="two", branch="b"),
    )
    assert run_verdict(run) == (
        "20 → a/10: Recall 0.50 → 0.40 of 10 facts: 3 lost, 2 learned; 0.50 [0.19, 0.81] changed sides.",
        "20 → a/10: Recall by class: old 1.00 → 0.40 (p = 0.25); new 0.00 → 0.40 (p = 0.5).",
        "20 → b/10: Recall 0.50 → 0.60 of 10 facts: 2 lost, 3 learned; 0.50 [0.19, 0.81] changed sides.",
        "20 → b/10: Recall by class: new 0.00 → 0.60 (p = 0.25); old 1.00 → 0.60 (p = 0.5).",
    )
    unmeasured = point(10, stage="two")
    assert run_verdict(run_of(run.points[0], unmeasured, _facts(1, 1, step=20, stage="two")))[0] == (
        "one/20 → two/20: Recall 0.50 → 0.20 of 10 facts: 4 lost, 1 learned; 0.50 [0.19, 0.81] changed sides."
    ), "the ends of a stage are compared, whatever lies between"


@pytest.mark.parametrize(
    ("refused", "told"),
    [
        ([(3, "no such answer")], "1 needle was refused and not asked: needle 3: no such answer."),
        (
            [(3, "no such answer"), (5, "too long")],
            "2 needles were refused and not asked: needle 3: no such answer; needle 5: too long.",
        ),
    ],
)
def test_needles_that_were_not_asked_are_told(refused, told):
    run = run_of(point(0), point(1, heads=retrieval(refused=refused)))
    assert run_verdict(run)[-1] == told


def test_checkpoints_that_failed_are_counted_and_named():
    run = run_of(
        point(0, heads=retrieval({(0, 0): 0.5})),
        point(1, failures={"heads": "out of memory"}),
        point(2, failures={"heads": "no", "circuit": "no"}),
    )
    assert run_verdict(run)[-1] == "2 of 3 checkpoints could not be measured in full: step1, step2."
    assert len(run_verdict(run)) == 2


@pytest.fixture
def table():
    labels = [{"class": "old" if i < 4 else "new"} for i in range(10)]
    return run_of(
        point(
            0,
            tokens=0,
            heads=retrieval({(0, 1): 0.25, (1, 1): 0.125}, accepted=3, correct=2, nll=_nll(20)),
            circuit=graph(strengths(WIRING_A), known=[True] * 3 + [False] * 6 + [True], labels=labels),
            faithfulness=faithfulness([0.25, 0.5], [0.5, 1.0], random=(0.0625, 0.125)),
        ),
        point(100, tokens=4096, heads=retrieval({(1, 0): 0.75}, accepted=9, correct=7, nll=_nll(200))),
        point(200, stage="late", failures={"heads": "no"}),
        log=LOG,
    )


def test_the_table_of_a_run(table):
    frame = run_frame(table)
    assert list(frame) == [
        "checkpoint", "step", "stage", "tokens", "loss", "needle_score", "needle_accuracy", "answer_ppl",
        "retrieval_heads", "best_head", "best_score", "recall", "recall_old", "recall_new", "faithfulness",
        "circuit_edges",
    ]  # fmt: skip
    first, second, third = frame.astype(object).where(frame.notna(), None).to_dict("records")
    assert first == {
        "checkpoint": "step0", "step": 0, "stage": None, "tokens": 0, "loss": 4.5,
        "needle_score": 0.3, "needle_accuracy": 0.2, "answer_ppl": pytest.approx(20),
        "retrieval_heads": 2, "best_head": "a0.h1", "best_score": 0.25,
        "recall": 0.4, "recall_old": 0.75, "recall_new": pytest.approx(1 / 6), "faithfulness": 0.75,
        "circuit_edges": 10,
    }  # fmt: skip
    assert [second[name] for name in ("needle_score", "needle_accuracy", "best_head", "best_score", "loss")] == [
        0.9, 0.7, "a1.h0", 0.75, 2.25
    ]  # fmt: skip
    assert second["retrieval_heads"] == 1
    assert all(second[name] is None for name in ("recall", "recall_old", "faithfulness"))
    assert third["stage"] == "late"
    assert third["checkpoint"] == "step200"
    assert all(third[name] is None for name in ("loss", "needle_score", "best_score", "recall", "tokens"))


def test_losses_come_from_the_series_own_log(table):
    assert logged_losses(table) == {0: 4.5, 100: 2.25}
    assert logged_losses(replace(table, log=None)) == {}
    assert "loss" not in run_frame(replace(table, log=None))


def test_facts_of_one_class_have_one_column():
    frame = run_frame(run_of(point(0, circuit=graph(strengths(WIRING_A), known=3))))
    assert [column for column in frame if column.startswith("recall")] == ["recall"]
    assert frame["recall"].tolist() == [0.3]


def _rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if "│" in line or "┃" in line]
    return [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in lines]


def test_a_run_is_printed_with_its_table_and_its_verdict(table, capsys):
    print_run(table)
    text = capsys.readouterr().out
    assert text.splitlines()[0].strip() == "handmade: 3 checkpoints"
    assert _rows(text) == [
        [
            "step",
            "stage",
            "loss",
            "needle",
            "exact",
            "ppl",
            "heads",
            "best",
            "score",
            "recall",
            "old",
            "new",
            "faithful",
            "edges",
        ],
        ["0", "n/a", "4.5", "0.3", "0.2", "20", "2", "a0.h1", "0.25", "0.4", "0.75", "0.167", "0.75", "10"],
        ["100", "n/a", "2.25", "0.9", "0.7", "200", "1", "a1.h0", "0.75", "n/a", "n/a", "n/a", "n/a", "n/a"],
        ["200", "late", *["n/a"] * 12],
    ]
    told = [line for line in text.splitlines() if line.startswith("• ")]
    assert told == [f"• {sentence}" for sentence in run_verdict(table)]
    assert len(told) == 2


def test_whole_numbers_from_a_thousand_on_are_printed_in_full(capsys):
    points = (point(123456, heads=retrieval({(0, 0): 0.5})), point(234567, heads=retrieval({(0, 0): 0.5})))
    print_run(run_of(*points, log="step,train_loss\n123456,1000.0\n234567,12.345\n"))
    rows = _rows(capsys.readouterr().out)
    assert [row[:2] for row in rows] == [["step", "loss"], ["123,456", "1,000"], ["234,567", "12.3"]]


def test_numbers_from_a_thousand_to_a_million_are_printed_in_full(capsys):
    print_run(
        run_of(*(point(step) for step in range(5)), log="step,loss\n0,2034.56\n1,999.6\n2,999.4\n3,2.5e6\n4,-2000.4\n")
    )
    rows = _rows(capsys.readouterr().out)
    assert [row[1] for row in rows] == ["loss", "2,035", "1,000", "999", "2,500,000", "-2,000"]


def test_a_notebook_shows_a_run(table):
    html = table._repr_html_()
    assert html.startswith("<p><b>handmade</b>: 3 checkpoints</p><ul><li>a1.h0, the best head, reaches 0.75")
    assert html.count("<li>") == 2
    assert "step200.</li></ul><table" in html
    assert html.count("<tr") == 4
    first, second, third = re.findall(r"<tr>(.*?)</tr>", html, re.S)
    assert re.findall("<td>(.*?)</td>", second)[5:11] == ["0.9", "0.7", "200", "1", "a1.h0", "0.75"]
    assert (first.count("n/a"), second.count("n/a"), third.count("n/a")) == (1, 6, 13)


def test_recall_is_told_class_by_class():
    labels = [{"class": "old"}] * 4 + [{"class": "new"}] * 6
    assert recall_by_class(graph(strengths(WIRING_A), known=5, labels=labels)) == {
        "old": (1.0, 4),
        "new": (pytest.approx(1 / 6), 6),
    }
    assert recall_by_class(graph(strengths(WIRING_A), known=5)) == {"all": (0.5, 10)}


def test_a_fact_is_recalled_only_where_its_answer_is_the_top_token():
    second = replace(graph(strengths(WIRING_A)), answer_rank=np.ones(10, dtype=int))
    assert recall_by_class(second) == {"all": (0.0, 10)}
    assert run_frame(run_of(point(0, circuit=second)))["recall"].tolist() == [0.0]
    assert recalled_facts([second]) is None


def test_the_change_of_recall_with_its_interval():
    """Five of ten gained: Wilson's [0, .2775] and [.2366, .7634] squared and added; p = 2 / 2^5."""
    change = recall_change(np.zeros(10, dtype=bool), np.arange(10) < 5)
    squared = 1.959964**2
    first = squared / (10 + squared)
    half = math.sqrt(squared * (2.5 + squared / 4)) / (10 + squared)
    assert (change.name, change.before, change.after, change.delta) == ("fact recall", 0.0, 0.5, 0.5)
    assert (change.low, change.high) == pytest.approx((0.5 - math.hypot(half, first), 0.5 + half), abs=1e-6)
    assert change.p == pytest.approx(2 / 2**5)
    one = recall_change(np.array([False]), np.array([True]))
    assert (one.delta, one.p) == (1, 1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)


def test_a_diff_is_about_the_facts_that_either_side_recalls():
    first = graph([strengths(WIRING_A) * i for i in range(10)], known=4, labels=[{"class": str(i)} for i in range(10)])
    second = graph([strengths(WIRING_B) * i for i in range(10)], known=[False] * 5 + [True] * 4 + [False])
    kept, told = recalled([first, second], "at A or B")
    assert told == "the 8 of 10 facts recalled at A or B"
    chosen = [0, 1, 2, 3, 5, 6, 7, 8]
    assert recalled_facts([first, second]).tolist() == chosen
    for before, after in zip((first, second), kept, strict=True):
        assert len(after) == 8
        np.testing.assert_array_equal(after.scores, before.scores[chosen])
        assert after.group.tolist() == list(range(8))
    assert kept[0].answer_rank.tolist() == [0] * 4 + [3] * 4
    assert [labels["class"] for labels in kept[0].labels] == [str(i) for i in chosen]


def test_with_fewer_than_eight_or_scores_of_groups_all_facts_are_used():
    first, second = graph(strengths(WIRING_A), known=4), graph(strengths(WIRING_B), known=7)
    kept, told = recalled([first, second], "at some checkpoint")
    assert told == "all 10 facts (fewer than 8 are recalled at some checkpoint)"
    assert kept[0] is first
    assert kept[1] is second
    grouped = replace(graph(strengths(WIRING_A), known=10), scores=first.scores[:5], group=np.arange(10) // 2)
    assert recalled([grouped, grouped], "at A or B") == ([grouped, grouped], "all 10 facts")
    assert recalled_facts([grouped]) is None


def test_a_graph_over_some_of_its_facts_keeps_their_metrics():
    whole = replace(graph(strengths(WIRING_A)), clean_metric=np.arange(10.0), corrupt_metric=-np.arange(10.0))
    part = whole.only(np.array([7, 2]))
    assert part.clean_metric.tolist() == [7, 2]
    assert part.corrupt_metric.tolist() == [-7, -2]


def test_a_stage_is_held_against_the_end_of_the_one_before():
    heads = retrieval()
    run = run_of(
        point(0, stage="one", heads=heads),
        point(100, stage="one", heads=heads),
        point(5, stage="two"),
        point(10, stage="two", heads=heads),
        point(20, stage="two", circuit=graph(strengths(WIRING_A))),
        point(30, stage="two"),
        point(1, stage="three", heads=heads),
    )
    assert [(a.place, b.place) for a, b in stage_ends(run)] == [
        ("one/0", "one/100"), ("one/100", "two/20"), ("two/20", "three/1")
    ]  # fmt: skip
    groups = stages(run)
    assert [[p.step for p in group] for group in groups] == [[0, 100], [5, 10, 20, 30], [1]]
    assert [before and before.place for before in (continued(groups, i) for i in range(3))] == [
        None, "one/100", "two/30"
    ]  # fmt: skip
    assert stage_ends(run_of(point(0, heads=heads))) == []


def test_a_branch_goes_on_from_its_own_and_else_from_the_trunk():
    run = run_of(
        *(point(1, stage="one"), point(1, stage="two", branch="a"), point(1, stage="two", branch="b")),
        *(point(1, stage="three", branch="b"), point(1, stage="four")),
    )
    groups = stages(run)
    before = [continued(groups, i) for i in range(5)]
    assert [p and p.place for p in before] == [None, "one/1", "one/1", "two/b/1", "three/b/1"]
    merged = stages(run_of(*run.points[:3], point(1, stage="five")))
    assert continued(merged, 3) is None


@pytest.mark.parametrize(
    ("before", "counts", "told"),
    [
        (900, [910, 950], [10, 50]),  # counted on
        (900, [10, 50], [10, 50]),  # counted anew
        (None, [910, 950], [910, 950]),
        (900, [910, None], None),
        (900, [910, 910], None),
        (900, [950, 910], None),
        (900, [900, 950], [0, 50]),
    ],
)
def test_the_tokens_of_a_stage_are_its_own(before, counts, told):
    run = run_of(point(9, tokens=before, stage="one"), *(point(i, tokens=n, stage="two") for i, n in enumerate(counts)))
    assert tokens_in_stage(run, stages(run)[1]) == told


def _circuit(step: int | None, wiring=WIRING_A, known: int = 0, **other):
    return point(step, circuit=graph(strengths(wiring), known=known), **other)


def test_a_line_may_begin_at_step_0_and_go_on_at_step_1():
    assert [p.step for p in line(run_of(point(0), point(None, name="final"), point(1)))] == [0, 1]


def test_a_circuit_is_followed_over_the_facts_that_were_ever_recalled(tmp_path):
    run = run_of(_circuit(0), _circuit(100, known=8), point(150), _circuit(None, name="final"), store=tmp_path)
    followed, facts = track_circuit(run)
    assert facts == "the 8 of 10 facts recalled at some checkpoint"
    assert followed.steps == (0, 100)
    again, _ = track_circuit(run)
    assert again.steps == followed.steps
    assert len(list((tmp_path / "evolution").iterdir())) == 1
    other, _ = track_circuit(run_of(_circuit(0), _circuit(200, known=8), store=tmp_path))
    assert other.steps == (0, 200)


def test_the_stages_of_a_circuit_begin_where_they_begin(tmp_path):
    run = run_of(
        *(_circuit(step, stage="one") for step in (0, 10, 20)),
        *(_circuit(step, WIRING_B, stage="two") for step in (30, 40, 50)),
        store=tmp_path,
    )
    followed, _ = track_circuit(run)
    (contrast,) = followed.contrasts
    assert (contrast.name, contrast.before, contrast.after) == ("two", 20, 50)
    one, facts = track_circuit(run, "one")
    assert one.steps == (0, 10, 20)
    assert facts == "all 10 facts (fewer than 8 are recalled at some checkpoint)"
    with pytest.raises(BadPrompt, match="stage one of handmade has 1 checkpoints with a circuit and a step"):
        track_circuit(run_of(_circuit(0, stage="one"), point(10, stage="one"), store=tmp_path), "one")
    with pytest.raises(BadPrompt, match="20 comes after 20"):
        track_circuit(run_of(_circuit(20), _circuit(20), store=tmp_path))


def test_a_run_its_points_and_a_pair_show_themselves_in_few_lines():
    run = run_of(point(0, heads=retrieval({(0, 1): 0.5})), point(10, heads=retrieval({(0, 1): 0.5})))
    assert repr(run) == "<Run of handmade: 2 checkpoints, 0 to 10; heads>"
    assert repr(run_of()) == "<Run of handmade: 0 checkpoints; no measure>"
    assert repr(run.points[0]) == "<Point 0: heads>"
    failed = point(5, stage="one", failures={"circuit": "no facts", "maps": "too long"})
    assert repr(failed) == "<Point one/5: no measure; failed: circuit, maps>"
    assert repr(run.diff(0, 10)).startswith("<PairDiff of 0 and 10>\n• 0 and 10 are equivalent: ")
