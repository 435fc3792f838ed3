import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoints.series.names import natural, parse_count, parse_name, split_stage, without_shared_branch


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
        # SmolLM3
        ("stage3-step-4240000", "stage3", None, 4240000, None),
        ("lc-4k-to-32k-step-20000", "lc-4k-to-32k", None, 20000, None),
        # OLMo before and after conversion, LitGPT, Megatron, torchtitan, verl, TRL
        ("step1000-hf", None, None, 1000, None),
        ("step1000_unsharded", None, None, 1000, None),
        ("step-00001000", None, None, 1000, None),
        ("iter-000100-ckpt", None, None, 100, None),
        ("iter_0001000", None, None, 1000, None),
        ("global-step-100", None, None, 100, None),
        ("checkpoint-500-merged", None, None, 500, None),
        ("model_step_1000", None, None, 1000, None),
        ("hf_step_100", None, None, 100, None),
        # Lightning and NeMo
        ("epoch=3-step=1000", None, None, 1000, None),
        ("megatron_gpt--val_loss=2.1-step=1000-consumed_samples=8000.0", None, None, 1000, None),
        ("epoch_3_step_100", None, None, 100, None),
        # LLM360
        ("ckpt_359", None, None, 359, None),
        ("CrystalCoder_phase1_checkpoint_055500", "phase1", "CrystalCoder", 55500, None),
        # seeds and runs in one folder are branches
        ("step1250-seed-default", None, "seed-default", 1250, None),
        ("seed2-step10", None, "seed2", 10, None),
        ("runA-step-10", None, "runA", 10, None),
        ("sft-seed2-step-100", "sft", "seed2", 100, None),
        # TinyLlama, MultiBERTs
        ("TinyLlama-1.1B-step-50K-105b", None, "TinyLlama-1.1B", 50_000, 105 * 10**9),
        ("step_20k", None, None, 20_000, None),
        # MosaicML's Composer, fairseq, step counts before their word
        ("ep3-ba1000", None, None, 1000, None),
        ("ba1000", None, None, 1000, None),
        ("model-1000", None, None, 1000, None),
        ("model_1000", None, None, 1000, None),
        ("update_1000", None, None, 1000, None),
        ("1000-steps", None, None, 1000, None),
        ("10k_steps", None, None, 10_000, None),
        ("sft-100-steps", "sft", None, 100, None),
        # epochs or tokens alone
        ("epoch_3", None, None, 3, None),
        ("epoch-3", None, None, 3, None),
        ("ckpt-250B", None, None, None, 250 * 10**9),
        ("0B", None, None, None, 0),
        ("20.97B", None, None, None, 20_970_000_000),
        ("240b_tokens", None, None, None, 240 * 10**9),
        ("chck_100M", None, None, None, 10**8),
        ("train_00220B", None, None, None, 220 * 10**9),
        ("stage1-tokens100B", "stage1", None, None, 10**11),
        ("500", None, None, 500, None),
    ],
)
def test_names_of_the_field_are_read(text, stage, branch, step, tokens):
    name = parse_name(text)
    assert name is not None
    assert (name.text, name.stage, name.branch, name.step, name.tokens) == (text, stage, branch, step, tokens)


@pytest.mark.parametrize(
    "text",
    ["main", "final", "tmp-checkpoint-5", "checkpoint", "checkpoint-5x", "runs", "", "²", "tinyLlama-1.1B", "v2",
     "eval-500", "stage-2", "it-SFT", "step10.5", "2024-05-01"],
)  # fmt: skip
def test_other_names_are_no_steps(text):
    assert parse_name(text) is None


def test_a_bare_number_is_a_step_only_of_a_checkpoint():
    assert [parse_name(text).plain for text in ("500", "20B", "step500", "ckpt-20B")] == [False, False, True, True]


def test_stages_stand_in_the_order_of_training():
    """Not of the alphabet: long context after stage 3, tuning after it."""
    texts = [
        "dpo-step-1",
        "sft-step-1",
        "lc-32k-to-64k-step-1",
        "lc-4k-to-32k-step-2",
        "stage3-step-9",
        "pretrain-step5",
    ]
    ordered = sorted((parse_name(text) for text in texts), key=lambda name: name.order)
    assert [name.text for name in ordered] == [
        "pretrain-step5",
        "stage3-step-9",
        "lc-4k-to-32k-step-2",
        "lc-32k-to-64k-step-1",
        "sft-step-1",
        "dpo-step-1",
    ]


def test_a_runs_own_name_is_no_branch():
    one = [parse_name(f"TinyLlama-1.1B-step-{step}k-105b") for step in (50, 100)]
    assert [name.branch for name in without_shared_branch(one)] == [None, None]
    two = [parse_name("runA-step-1"), parse_name("runB-step-1")]
    assert [name.branch for name in without_shared_branch(two)] == ["runA", "runB"]
    ingredient = [parse_name("stage2-ingredient1-step5")]
    assert without_shared_branch(ingredient) == ingredient


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
