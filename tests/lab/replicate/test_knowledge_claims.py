"""Every claim on knowledge says yes, no and undecided where its interval does: hand-made ledgers and logs, no model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from circuit_drift.knowledge import Ledger
from circuit_drift.knowledge.scores import UnitScores
from circuit_drift.replicate.knowledge_claims import claims_frame
from circuit_drift.training.strategies import function_frame
from circuit_drift.training.strategies.comparison import Trained
from circuits.intervention.faithfulness import NO_EFFECT
from tests.drift.handmade import transfer

NO_DRIFT = pd.DataFrame()
HELD = "half or more of what is newly learned is lost again"
KEPT = "a part of what was known is lost"
BEST = "recall is best before the end"
SKILLS = "skills outside the domain decline"
NEAR = "KL to the original model keeps them"
LITTLE = "and learns nearly nothing"
MAIN = "main documents alone: an early peak, then a fall"
READING = "reading the right passage beats learning it"
FUNCTION = "the circuit from before training goes on working"
EDGES = "the circuit's edges are others from the first epoch on"


def scores(means):
    means = np.asarray(means, float)
    units = tuple(f"u{i}" for i in range(len(means)))
    return UnitScores(units, tuple(range(means.shape[1])), means[:, :, None])


def trained(means, *, name="LoRA", loss=(4, 3, 2, 1, 0.5), right=(0.5, 0.5), ppl=(100, 100)):
    steps = np.shape(means)[1]
    log = {"step": range(steps), "epoch": range(steps), "document_loss": loss[:steps]}
    log |= {"needle_accuracy": np.linspace(*right, steps), "text_ppl": np.linspace(*ppl, steps)}
    return Trained(name, pd.DataFrame(log), Ledger(scores(means)), Path())


def units(*, kept=0, lost=0, held=0, dropped=0, never=0):
    """Known before and at the end, known before only, learned in between and held, or lost again, and never known."""
    paths = ([1, 1, 1, 1], kept), ([1, 1, 1, 0], lost), ([0, 1, 1, 1], held), ([0, 1, 1, 0], dropped), ([0] * 4, never)
    return [path for path, times in paths for _ in range(times)]


def said(*args, **kwargs):
    return claims_frame(*args, **{"drift": NO_DRIFT} | kwargs).set_index("claim")


def test_the_loss_must_fall_under_every_seed():
    rising = trained(units(kept=8), loss=(4, 3, 3.5, 1))
    one, both = said(trained(units(kept=8))), said(trained(units(kept=8)), seeds=[rising])
    name = "the loss falls throughout"
    assert tuple(one.loc[name, ["ours", "reproduced"]]) == ("loss 4.00 → 1.00; it fell in 3 of 3 epochs", "yes")
    assert tuple(both.loc[name, ["ours", "reproduced"]]) == (
        "loss 4.00 → 1.00, 4.00 → 1.00; it fell in 5 of 6 epochs",
        "no",
    )


@pytest.mark.parametrize(
    ("held", "dropped", "told", "answer"),
    [
        (18, 10, "18 of 28 held: 0.64 [0.44, 0.81]", "undecided"),
        (6, 24, "6 of 30 held: 0.20 [0.08, 0.39]", "yes"),
        (27, 3, "27 of 30 held: 0.90 [0.73, 0.98]", "no"),
        (0, 0, "0 of 0 held", "undecided"),
    ],
)
def test_what_is_learned_is_lost_again_where_the_share_held_is_certainly_small(held, dropped, told, answer):
    row = said(trained(units(held=held, dropped=dropped, never=4))).loc[HELD]
    assert (row.ours, row.reproduced) == (told, answer)


@pytest.mark.parametrize(
    ("kept", "lost", "told", "answer"),
    [
        (7, 5, "7 of 12 kept: 0.58 [0.28, 0.85]", "yes"),
        (12, 0, "12 of 12 kept: 1.00 [0.74, 1.00]", "undecided"),
        (40, 0, "40 of 40 kept: 1.00 [0.91, 1.00]", "no"),
    ],
)
def test_a_part_is_lost_where_the_share_kept_is_certainly_below_all(kept, lost, told, answer):
    row = said(trained(units(kept=kept, lost=lost, never=4))).loc[KEPT]
    assert (row.ours, row.reproduced) == (told, answer)


def test_counts_of_every_seed_and_their_interval_stand_in_one_cell():
    row = said(
        trained(units(held=18, dropped=10, never=4)),
        seeds=[trained(units(held=9, dropped=19, never=4)), trained(units(held=14, dropped=14, never=4))],
    ).loc[HELD]
    assert row.ours.startswith("18 of 28, 9 of 28, 14 of 28 held: 0.49 [")
    low, high = (float(end) for end in row.ours.rpartition("[")[2].rstrip("]").split(", "))
    alone = 0.81 - 0.44
    assert high - low > alone, "three seeds that disagree leave more open than the units of one"
    assert row.reproduced == "undecided"


def test_recall_is_best_before_the_end_where_it_certainly_falls_from_its_best():
    falling = said(trained([[0.1, 0.9 + u / 50, 0.5, 0.4] for u in range(8)])).loc[BEST]
    assert falling.ours.startswith("0.10 → 0.97 (epoch 1) → 0.40, from the best epoch to the last -0.57 [")
    assert falling.reproduced == "yes"
    assert said(trained([[0.1, 0.2, 0.5, 0.6]] * 8)).loc[BEST, "reproduced"] == "no"
    half = [[0.1, 0.5 + u / 100, 0.9, (0.2, 1.5)[u // 2 % 2]] for u in range(8)]
    assert said(trained(half)).loc[BEST, "reproduced"] == "undecided"


@pytest.mark.parametrize(
    ("ends", "answer"),
    [
        (((0.40, 150), (0.39, 151), (0.41, 149)), "yes"),
        (((0.50, 150), (0.51, 151), (0.50, 149)), "no"),
        (((0.40, 90), (0.39, 91), (0.41, 89)), "no"),
        (((0.40, 150), (0.60, 151), (0.41, 149)), "undecided"),
        (((0.40, 150),), "undecided"),
    ],
    ids=["both worse", "accuracy holds", "perplexity falls", "seeds disagree", "one seed"],
)
def test_skills_decline_where_the_seeds_agree_that_both_are_worse(ends, answer):
    lora, *seeds = [trained(units(kept=8), right=(0.5, right), ppl=(100, ppl)) for right, ppl in ends]
    row = said(lora, seeds=seeds).loc[SKILLS]
    assert row.reproduced == answer
    if not seeds:
        assert row.ours == (
            "needle accuracy 0.50 → 0.40, -0.10 (no interval: one seed); perplexity of other text 100 → 150, "
            "+50 (no interval: one seed)"
        )


@pytest.mark.parametrize(("end", "answer"), [(0.5, "yes"), (0.472, "undecided"), (0.4, "no")])
def test_kl_keeps_skills_give_or_take_what_seeds_differ_by(end, answer):
    lora, *seeds = [trained(units(kept=8), right=(0.5, right), ppl=(100, 150)) for right in (0.40, 0.402, 0.404)]
    row = said(lora, seeds=seeds, kl=trained(units(kept=8), right=(0.5, end), ppl=(100, 110))).loc[NEAR]
    assert row.reproduced == answer
    assert row.ours.endswith("perplexity of other text 100 → 110, 20% of LoRA's rise")
    alone = said(lora, kl=trained(units(kept=8), right=(0.5, end))).loc[NEAR]
    assert alone.reproduced == "undecided", "one seed of LoRA tells no spread"


@pytest.mark.parametrize(
    ("paths", "told", "answer"),
    [
        (units(kept=10, never=190), "+0 of 200 units known, a share of +0.00 [+0.00, +0.00]", "yes"),
        (units(kept=10, held=60, never=130), "+60 of 200 units known, a share of +0.30 [+0.24, +0.36]", "no"),
        (units(kept=10, held=5, never=75), "+5 of 90 units known, a share of +0.06 [+0.01, +0.10]", "undecided"),
    ],
)
def test_nearly_nothing_is_a_share_within_two_of_a_hundred(paths, told, answer):
    row = said(trained(units(kept=8)), kl=trained(paths)).loc[LITTLE]
    assert (row.ours, row.reproduced) == (told, answer)


@pytest.mark.parametrize(
    ("paths", "answer"),
    [
        ([[0, 1, 0, 0, 0]] * 20 + [[0] * 5] * 20, "yes"),
        ([[0, 1, 1, 1, 0], [0, 1, 0, 0, 1]] * 2, "undecided"),
        ([[0, 0, 0, 1, 0]] * 20 + [[0] * 5] * 20, "no"),
        ([[0, 0, 0, 0, 1]] * 20, "no"),
    ],
    ids=["early, then a fall", "early, a fall by chance", "a late peak", "the best is the last"],
)
def test_main_documents_alone_peak_early_and_fall(paths, answer):
    row = said(trained(units(kept=8)), main=trained(paths)).loc[MAIN]
    assert row.reproduced == answer


def test_reading_is_held_against_learning_unit_by_unit():
    lora = trained([[0.1, 0.2 + u / 50, 0.2, 0.2] for u in range(10)])
    better = scores([[0.5 + u / 50] for u in range(10)])
    row = said(lora, gold=better).loc[READING]
    assert (row.ours, row.reproduced) == ("recall 0.59 over 10 units, against 0.29: +0.30 [+0.30, +0.30]", "yes")
    assert said(lora, gold=scores([[0.1]] * 10)).loc[READING, "reproduced"] == "no"
    mixed = scores([[0.9 * (u % 2)] for u in range(10)])
    assert said(lora, gold=mixed).loc[READING, "reproduced"] == "undecided"
    turned = UnitScores(better.units[::-1], (0,), better.probes[::-1])
    assert said(lora, gold=turned).loc[READING, "ours"] == row.ours, "units are matched by name"


@pytest.mark.parametrize(("kept", "answer"), [((0.97, 0.99), "yes"), ((0.80, 0.95), "no"), ((0.86, 0.97), "undecided")])
def test_a_circuit_goes_on_working_where_the_interval_of_its_share_says_so(kept, answer):
    later = {"step": 5, "first": 0.8, "own": 0.83, "kept": np.mean(kept), "kept_low": kept[0], "kept_high": kept[1]}
    before = {"step": 0, "first": 0.9, "own": 0.9, "kept": 1.0, "kept_low": 1.0, "kept_high": 1.0}
    frame = pd.DataFrame([before, later]).assign(facts=79, edges=3497)
    row = said(trained(units(kept=8)), function=frame).loc[FUNCTION]
    assert row.reproduced == answer
    assert row.ours == (
        f"80% (before: 90%), at least {np.mean(kept):.0%} [{kept[0]:.0%}, {kept[1]:.0%}] of it; each epoch's own "
        "circuit 83% (3,497 edges)"
    )


def test_an_epoch_within_the_noise_leaves_the_edges_open():
    frame = pd.DataFrame({"overlap": [0.4, 0.3], "floor": [0.5, 0.45], "beyond_noise": [True, True]})
    assert said(trained(units(kept=8)), drift=frame).loc[EDGES, "reproduced"] == "yes"
    frame["beyond_noise"] = [True, False]
    row = said(trained(units(kept=8)), drift=frame).loc[EDGES]
    assert row.reproduced == "undecided", "what is not told from noise is not told to be the same"


def test_a_model_without_an_effect_leaves_the_circuits_work_open():
    told = transfer(["0", "1"], [[0.5, 0.5], [0.5, 0.5]])
    clean = told.clean_metric.copy()
    clean[1] = told.corrupt_metric[1] + np.resize([-1.0, 1.0], clean.shape[1])
    frame = function_frame(replace(told, clean_metric=clean))
    assert frame[["kept", "kept_low", "kept_high"]].isna().all(axis=1).tolist() == [False, True]
    row = said(trained(units(kept=8)), function=frame).loc[FUNCTION]
    assert (row.ours, row.reproduced) == (NO_EFFECT, "undecided")
