"""A short, seeded draw over every kind of file that is read; ``python -m benchmarks.fuzz`` draws thousands."""

from pathlib import Path
from random import Random

import pytest

from tests.fuzz.kinds import KINDS
from tests.fuzz.trials import Kind, trials

COUNT = 8


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_damaged_file_is_read_right_or_refused_in_one_line(kind: Kind, tmp_path: Path):
    outcomes = trials(kind, tmp_path, Random(f"{kind.name} 0"), COUNT)
    bad = [(outcome.result, outcome.detail, outcome.content[:200]) for outcome in outcomes if not outcome.good]
    assert bad == []
    assert len(outcomes) == COUNT
