"""A short, seeded draw over every kind of file that is read; ``python -m benchmarks.fuzz`` draws thousands."""

from pathlib import Path
from random import Random

import pytest

from tests.fuzz.kinds import KINDS
from tests.fuzz.trials import Kind, trial, trials

COUNT = 8


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_damaged_file_is_read_right_or_refused_in_one_line(kind: Kind, tmp_path: Path):
    outcomes = trials(kind, tmp_path, Random(f"{kind.name} 0"), COUNT)
    bad = [(outcome.result, outcome.detail, outcome.content[:200]) for outcome in outcomes if not outcome.good]
    assert bad == []
    assert len(outcomes) == COUNT


@pytest.mark.parametrize(
    ("name", "content", "refusal"),
    [
        ("head lists", '{"0-0": [0.5], "99999999999999999999-99999999": [0.5]}', "heads, a0.h1 first"),
        ("manifest.csv", "Stage,Step,Tokens Seen,Checkpoint Directory\ns,1,,a\0b\n", "can be no folder's name"),
        ("manifest.csv", f"Stage,Step,Tokens Seen,Checkpoint Directory\ns,1,{'9' * 5000},a\n", "is not a count"),
        ("scores CSV", "unit,step,score,probe\na,0,0,x\na,10,1,\n", "row 2 of the table has no probe"),
        ("train config", f"model = 'm'\nepochs = 0x{'9' * 5000}\n", "an integer of more than 64 bits"),
        ("weights index", '{"weight_map": {"a": "' + "x" * 5000 + '"}}', "or no name"),
        ("tokenizer_config.json", '{"model_max_length": {}}', "which is no number"),
    ],
)
def test_what_the_fuzz_once_found_is_refused(name: str, content: str, refusal: str, tmp_path: Path):
    (kind,) = (kind for kind in KINDS if kind.name == name)
    kind.make(tmp_path).write_text(content)
    found = trial(kind, tmp_path, content.encode(), None)
    assert (found.result, refusal in found.detail) == ("refused", True), found
