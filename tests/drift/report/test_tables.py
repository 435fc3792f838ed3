"""Tables of the page: words in the place of field names, and intervals in one cell."""

import re

import pandas as pd

from circuit_drift.page.tables import column_in_words, html_table, readable_rows, true_minus


def test_a_reader_meets_words_and_intervals():
    frame = pd.DataFrame(
        {
            "node": ["m3", "a0.h5"],
            "a": [0.5, 0.25],
            "delta": [-10.317, float("nan")],
            "low": [-12.634, float("nan")],
            "high": [-8.018, float("nan")],
            "in_a": [True, False],
            "across_low": [0.1, 0.2],
            "across_high": [0.30004, float("nan")],
            "facts_low": [1, 2],
        }
    )
    table = readable_rows(frame)
    assert list(table) == ["node", "at A", "change", "interval", "in A", "across interval", "facts low"]
    assert table["interval"].tolist() == ["[−12.63, −8.018]", "n/a"]
    assert table["across interval"].tolist() == ["[0.1, 0.3]", "[0.2, …]"]
    assert table["in A"].tolist() == ["yes", "no"]
    html = html_table(frame)
    assert re.findall("<td>(.*?)</td>", html)[:4] == ["m3", "0.5", "−10.32", "[−12.63, −8.018]"]


def test_a_column_s_name_is_said_in_words():
    said = {
        "edges_changed": "edges changed",
        "reliability_b": "reliability at B",
        "answer_nll": "answer NLL",
        "delta": "change",
        "step": "step",
    }
    assert {name: column_in_words(name) for name in said} == said


def test_steps_have_commas_and_what_is_missing_is_said_beside_them():
    frame = pd.DataFrame({"of": ["recall", "score"], "by": [9600, None], "stage": [None] * 2, "change": [-1200, 3]})
    cells = re.findall("<td>(.*?)</td>", html_table(frame.astype({"by": object, "stage": object})))
    assert cells == ["recall", "9,600", "n/a", "−1,200", "score", "n/a", "n/a", "3"]


def test_a_minus_is_true_before_numbers_and_names_keep_their_hyphens():
    said = "run-2 m3->logits (change -0.58 [-0.67, -.49]) 1e-05 seeds/-1 checkpoint-150 -- 3"
    assert true_minus(said) == "run-2 m3->logits (change −0.58 [−0.67, −.49]) 1e-05 seeds/-1 checkpoint-150 -- 3"


def test_an_empty_table_keeps_its_heads():
    empty = readable_rows(pd.DataFrame({"edge": [], "delta_low": [], "delta_high": []}))
    assert list(empty) == ["edge", "change interval"] and len(empty) == 0
