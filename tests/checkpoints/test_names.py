import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoints.series.names import natural, parse_count, parse_name, split_stage


@pytest.mark.parametrize(
    ("text", "stage", "branch", "step", "tokens"),
    [
        ("checkpoint-500", None, None, 500, None),
        ("step-0", None, None, 0, None),
        ("step143000", None, None, 143000, None),
        ("step_7", None, None, 7, None),
        ("global_step12", None, None, 12, None),
        ("step20000-tokens84B", None, None, 20000, 84 * 10**9),
        ("stage1-step928646-tokens3896B", "stage1", None, 928646, 3896 * 10**9),
        ("stage2-ingredient1-step11931-tokens100B", "stage2", "ingredient1", 11931, 100 * 10**9),
        ("stage1-step0-tokens0B", "stage1", None, 0, 0),
        ("step5-tokens1.5T", None, None, 5, 1_500_000_000_000),
    ],
)
def test_names_of_the_field_are_read(text, stage, branch, step, tokens):
    name = parse_name(text)
    assert name is not None
    assert (name.text, name.stage, name.branch, name.step, name.tokens) == (text, stage, branch, step, tokens)


@pytest.mark.parametrize("text", ["main", "final", "tmp-checkpoint-5", "checkpoint", "checkpoint-5x", "runs", "5", ""])
def test_other_names_are_no_steps(text):
    assert parse_name(text) is None


def test_order_is_stage_then_branch_then_step_as_numbers():
    shuffled = [
        "stage2-ingredient10-step5-tokens1B",
        "stage2-ingredient2-step5-tokens1B",
        "stage1-step1000-tokens9B",
        "stage2-ingredient2-step40-tokens1B",
        "stage1-step900-tokens8B",
        "stage10-step1-tokens1B",
    ]
    ordered = sorted((parse_name(text) for text in shuffled), key=lambda name: name.order)
    assert [name.text for name in ordered] == [
        "stage1-step900-tokens8B",
        "stage1-step1000-tokens9B",
        "stage2-ingredient2-step5-tokens1B",
        "stage2-ingredient2-step40-tokens1B",
        "stage2-ingredient10-step5-tokens1B",
        "stage10-step1-tokens1B",
    ]


@given(st.integers(0, 10**9), st.sampled_from(["checkpoint-", "step-", "step", "checkpoint_", "iter-"]))
def test_every_step_survives_its_name(step, prefix):
    name = parse_name(f"{prefix}{step}")
    assert name is not None
    assert name.step == step


@given(st.lists(st.integers(0, 10**6), min_size=1))
def test_natural_order_is_numeric(steps):
    names = sorted((f"step{step}" for step in steps), key=natural)
    assert [int(name[4:]) for name in names] == sorted(steps)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("84B", 84 * 10**9),
        ("2,097,152", 2097152),
        ("1.5T", 1_500_000_000_000),
        ("512k", 512_000),
        ("", None),
        ("many", None),
    ],
)
def test_counts(text, count):
    assert parse_count(text) == count


def test_stages_of_a_manifest():
    assert split_stage("stage2-ingredient1") == ("stage2", "ingredient1")
    assert split_stage("stage1") == ("stage1", None)
    assert split_stage("continual pre-training") == ("continual pre-training", None)
    assert split_stage(" ") == (None, None)
