"""Text of others on its way to a reader, character by character, and numbers of things in words."""

import numpy as np
import pandas as pd
import pytest

from checkpoints.results.text import bulleted, counted, label, to_csv, visible, visible_line


@pytest.mark.parametrize(
    ("number", "words", "said"),
    [
        (1, ("head",), "1 head"),
        (0, ("head",), "0 heads"),
        (2, ("head",), "2 heads"),
        (1234, ("edge",), "1,234 edges"),
        (1, ("loss", "losses"), "1 loss"),
        (3, ("loss", "losses"), "3 losses"),
    ],
)
def test_a_number_of_things(number, words, said):
    assert counted(number, *words) == said


def test_what_a_terminal_would_obey_or_hide_is_written_out():
    assert visible("a\x1b[1mb\r\x00\x7f\x9f") == "a\\x1b[1mb\\r\\x00\\x7f\\x9f"
    assert visible("a\u202eb\u2066c\u200fd\u200be\ufefff") == "a\\u202eb\\u2066c\\u200fd\\u200be\\ufefff"
    assert visible("a\udc80") == "a\\udc80"
    assert visible("one\ttwo\nthree é 中 🙂") == "one\ttwo\nthree é 中 🙂"
    assert visible_line("one\ttwo\nthree\x1b") == "one\\ttwo\\nthree\\x1b"


def test_a_value_lists_what_it_says_in_so_many_lines_of_such_a_width():
    assert bulleted("A of B", ["one", "two"], ".all") == "<A of B>\n• one\n• two"
    assert bulleted("A of B", [], ".all") == "<A of B>"
    cut = bulleted("A of B", ["one", "two words here", "three", "four"], ".all", most=2, width=10)
    assert cut == "<A of B>\n• one\n• two …\n• and 2 more in .all"


def test_a_label_is_no_markup_to_a_figure():
    assert label("<b>x</b> a < b & c &amp; &#38; <3\n") == "&lt;b>x&lt;/b> a < b & c &amp;amp; &amp;#38; <3\\n"


def test_a_table_as_csv_holds_no_formula():
    frame = pd.DataFrame(
        {
            "=name": ["=1+1", "+x", "-y", "@z", "\tt", "plain", "-1.5"],
            "n": [1.5, float("nan"), None, 2.0, 3.0, 4.0, 5.0],
        }
    )
    assert to_csv(frame) == "'=name,n\n'=1+1,1.5\n'+x,\n'-y,\n'@z,2.0\n'\tt,3.0\nplain,4.0\n-1.5,5.0\n"
    mixed = pd.DataFrame({"a": [None, "x, y", 7]})
    assert to_csv(mixed) == 'a\n""\n"x, y"\n7\n'


def test_a_tables_numbers_are_written_as_python_writes_them_or_to_so_many_digits():
    frame = pd.DataFrame(
        {
            "truth": [True, False],
            "whole": np.array([3, 123456789012], dtype=np.int64),
            "single": np.array([0.1, np.nan], dtype=np.float32),
            "double": [1 / 3, 1e-20],
            "open": pd.array([2, 3], dtype="Int64"),
            "text": pd.array(["=x", "=x"], dtype="string"),
            "any": [np.float64(1 / 3), None],
        }
    )
    first = to_csv(frame).splitlines()
    assert first[1] == "True,3,0.10000000149011612,0.3333333333333333,2,'=x,0.3333333333333333"
    assert first[2] == "False,123456789012,,1e-20,3,'=x,"
    assert to_csv(frame, 4).splitlines()[1:] == ["True,3,0.1,0.3333,2,'=x,0.3333", "False,123456789012,,1e-20,3,'=x,"]
    assert to_csv(frame[:0]) == "truth,whole,single,double,open,text,any\n"


def test_what_is_missing_is_an_empty_cell_of_texts_and_of_fractions():
    frame = pd.DataFrame({"t": pd.Series(["=a", None, "b"], dtype="str"), "x": [0.1, np.nan, -np.inf]})
    assert to_csv(frame) == "t,x\n'=a,0.1\n,\nb,-inf\n"
    assert to_csv(pd.DataFrame({"x": np.array([0.1], dtype=np.float32)})) == "x\n0.10000000149011612\n"
