"""What Mousavi, Alghisi and Riccardi (2026, arXiv 2601.03858) report, beside what a run of one's own shows.

Their figures are those of LoRA over ten epochs on 100 entities unless a row says otherwise, for Llama-3.2-1B,
Llama-3.1-8B and OLMo-7B in this order. Every figure of ours is computed from runs, and so is whether it agrees, by the
rule that the table states.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from checkpoints.stats.bootstrap import Estimate
from checkpoints.stats.shares import exact_share_interval
from circuit_drift.knowledge.scores import UnitScores
from circuit_drift.replicate.claims import Claim
from circuit_drift.replicate.seeds import fall_from_best, mean_over, scores_of, seeds_frame, seeds_reach
from circuit_drift.training.strategies.comparison import LOSS, Trained
from circuits.intervention.faithfulness import NO_EFFECT

if TYPE_CHECKING:
    import pandas as pd

Run = TypeVar("Run")
HALF_HELD = 0.56
KEPT = 0.75
FUNCTION = 0.965
SLACK = 0.03
LITTLE = 0.02
NOT_RUN = "not run"
"""Told in place of figures."""


def claims_frame(
    lora: Trained,
    *,
    seeds: Sequence[Trained] = (),
    kl: Trained | None = None,
    main: Trained | None = None,
    gold: UnitScores | None = None,
    drift: "pd.DataFrame | None" = None,
    function: "pd.DataFrame | None" = None,
    skill: str = "needle_accuracy",
) -> "pd.DataFrame":
    """The table of claims; what was not run stands there as `NOT_RUN`, its claims undecided.

    A claim holds, or does not, where a 95 % interval lies on one side of the bound that its rule names; it is undecided
    where the interval holds the bound. Intervals are over units and seeds; one seed alone leaves those over units.

    Args:
        lora: the strategy that most of the claims are about.
        seeds: the same strategy under other seeds.
        kl: KL to the original model.
        main: main documents only.
        gold: what the model answered before training with the passage in front that states the answer:
            `comparison.retrieval_scores`.
        drift: `drift.drift_frame` of the circuits; None = those that were traced while ``lora`` was trained.
        function: `drift.function_frame` of the transfer between epochs of ``lora``.
        skill: the accuracy outside the domain, a column of the logs.

    Raises:
        BadPrompt: seeds that were asked other units, or at other steps.
    """
    import pandas as pd

    every = (lora, *seeds)
    rows = [
        *_learning(every),
        _decline(every, skill),
        *_kept_near(every, kl, skill),
        _main_alone(main),
        _reading(lora, gold),
        _circuits(lora.drift() if drift is None else drift),
        _function(function),
    ]
    columns = {"claim": "words", "paper": "published", "ours": "here", "reproduced": "answer", "rule": "rule"}
    return pd.DataFrame([{name: getattr(row, field) for name, field in columns.items()} for row in rows])


def _where_run(run: Run | None, told: Callable[[Run], tuple[str, bool | None]]) -> tuple[str, bool | None]:
    """What a run shows and whether it agrees."""
    return (NOT_RUN, None) if run is None else told(run)


def _below(low: float, high: float, bound: float) -> bool | None:
    """Whether an interval lies at or below a bound; None where it holds the bound inside, or is not known."""
    return True if high <= bound else False if low > bound else None


def _above(low: float, high: float, bound: float) -> bool | None:
    """Whether an interval lies at or above a bound; None where it holds the bound inside, or is not known."""
    return True if low >= bound else False if high < bound else None


def _learning(every: Sequence[Trained]) -> Iterator[Claim]:
    falls = [fell for one in every for fell in one.divergence.loss_fell]
    paths = [f"{one.log[LOSS].iloc[0]:.2f} → {one.log[LOSS].iloc[-1]:.2f}" for one in every]
    yield Claim(
        "the loss falls throughout",
        "perplexity 12.6 → 10.3, 7.8 → 5.6, 8.5 → 7.7",
        f"loss {', '.join(paths)}; it fell in {sum(falls)} of {len(falls)} epochs",
        all(falls),
        "it falls in every epoch, under every seed",
    )
    yield _best_before_the_end(every)
    shares = seeds_frame(every).set_index("quantity") if len(every) > 1 else None
    yield _share_claim(
        every,
        shares,
        "half or more of what is newly learned is lost again",
        "held at the end: 10 of 18, 6 of 20, 6 of 17",
        ("newly_learned_held", "newly_learned", "of them known at the end", "held"),
        lambda low, high: _below(low, high, HALF_HELD),
        f"the share held is at most the published {HALF_HELD:g}",
    )
    yield _share_claim(
        every,
        shares,
        "a part of what was known is lost",
        "kept: 7 of 12, 27 of 36, 7 of 17",
        ("kept", "known_first", "of those known before, known at the end", "kept"),
        lambda low, high: True if high < 1 else _below(low, high, KEPT),
        f"the share kept is below 1; not, where it may be 1 and is above the published {KEPT:g}",
    )


def _best_before_the_end(every: Sequence[Trained]) -> Claim:
    curves = scores_of(every)
    mean = curves.mean(axis=(0, 1))
    best, fall = int(mean.argmax()), mean_over(fall_from_best(curves))
    return Claim(
        "recall is best before the end",
        ".30 → .41 (epoch 7) → .40; .52 → .52 → .51; .41 → .46 (epoch 1) → .35",
        f"{mean[0]:.2f} → {mean[best]:.2f} (epoch {best}) → {mean[-1]:.2f}, from the best epoch to the last "
        f"{fall.value:+.2f} [{fall.low:+.2f}, {fall.high:+.2f}]",
        True if fall.high < 0 else False if best == len(mean) - 1 else None,
        "from the best epoch, which the other half of the units chose, recall falls; not, where the last is the best",
    )


def _share_claim(
    every: Sequence[Trained],
    shares: "pd.DataFrame | None",
    words: str,
    published: str,
    names: tuple[str, str, str, str],
    holds: Callable[[float, float], bool | None],
    rule: str,
) -> Claim:
    """A share of units over all seeds: its two counts of a ledger, its row of ``shares`` of several, and its verb."""
    part, whole, row, verb = names
    books = [one.ledger.outcome for one in every]
    counts = ", ".join(f"{book[part]} of {book[whole]}" for book in books)
    if shares is not None:
        found = shares.loc[row]
        share, low, high = (float(found[name]) for name in ("mean", "low", "high"))
    else:
        (book,) = books
        share = book[part] / book[whole] if book[whole] else float("nan")
        low, high = exact_share_interval(book[part], book[whole]) if book[whole] else (float("nan"), float("nan"))
    told = "" if math.isnan(share) else f": {share:.2f} [{low:.2f}, {high:.2f}]"
    return Claim(words, published, f"{counts} {verb}{told}", holds(low, high), rule)


def _decline(every: Sequence[Trained], skill: str) -> Claim:
    """Two readings, each of which must be worse; one seed tells no interval of either."""
    right, ppl = (_change(every, column) for column in (skill, "text_ppl"))
    worse = (_below(right.low, right.high, -SLACK), _above(ppl.low, ppl.high, 0.0))
    return Claim(
        "skills outside the domain decline",
        "MMLU .40 → .24, .66 → .38, .50 → .43",
        f"{_named(skill)} {_paths(every, skill)}, {_signed(right, '.2f')}; perplexity of other text "
        f"{_paths(every, 'text_ppl', '.0f')}, {_signed(ppl, '.0f')}",
        False if False in worse else True if worse == (True, True) else None,
        "over seeds the accuracy falls by more than 3 points, and the perplexity rises",
    )


def _kept_near(every: Sequence[Trained], kl: Trained | None, skill: str) -> Iterator[Claim]:
    def keeps(run: Trained) -> tuple[str, bool | None]:
        right, one = _change(every, skill), _change((run,), skill).value
        half = (right.high - right.low) / 2 * math.sqrt(len(every))
        part = _ratio(_change((run,), "text_ppl").value, _change(every, "text_ppl").value)
        text = f"perplexity of other text {_paths((run,), 'text_ppl', '.0f')}, {part} of LoRA's rise"
        told = f"{_named(skill)} {_paths((run,), skill)}, {_signed(Estimate(one, one - half, one + half, 1), '.2f')}"
        return f"{told}; {text}", _above(one - half, one + half, -SLACK)

    def learns(run: Trained) -> tuple[str, bool | None]:
        known = run.ledger.known
        net = mean_over((known[:, -1].astype(float) - known[:, 0])[None])
        shown = f"{int(known[:, -1].sum()) - int(known[:, 0].sum()):+d} of {len(known)} units known, a share of "
        within = max(abs(net.low), abs(net.high)) <= LITTLE
        beyond = net.low > LITTLE or net.high < -LITTLE
        return shown + _signed(net, ".2f"), True if within else False if beyond else None

    yield Claim(
        "KL to the original model keeps them",
        "1 to 3 points lost",
        *_where_run(kl, keeps),
        "at most 3 points of the accuracy are lost, give or take what LoRA's differs by from seed to seed",
    )
    yield Claim(
        "and learns nearly nothing",
        "+1 to +2 of 100 entities",
        *_where_run(kl, learns),
        "the share known changes by at most .02",
    )


def _main_alone(main: Trained | None) -> Claim:
    def told(run: Trained) -> tuple[str, bool | None]:
        known = run.ledger.known
        counts, fall = known.sum(axis=0), mean_over(fall_from_best(known[None].astype(float)))
        peak = int(counts.argmax())
        path = f"{counts[0]} → {counts[peak]} (epoch {peak}) → {counts[-1]} of {len(known)} units known"
        early = peak < len(counts) // 2
        shown = f"{path}, from the best epoch to the last {_signed(fall, '.2f')} of them"
        return shown, early and (True if fall.high < 0 else None)

    return Claim(
        "main documents alone: an early peak, then a fall",
        "18 of 100 in epoch 1, 0 by epoch 30",
        *_where_run(main, told),
        "the peak is in the first half, and from the best epoch, which the other half of the units chose, the share "
        "known falls",
    )


def _reading(lora: Trained, gold: UnitScores | None) -> Claim:
    def told(gold: UnitScores) -> tuple[str, bool | None]:
        learned = lora.ledger.scores
        means = learned.mean[[learned.units.index(unit) for unit in gold.units]]
        best = means[:, int(learned.mean.mean(axis=0).argmax())]
        more = mean_over((gold.mean[:, 0] - best)[None])
        shown = f"recall {gold.mean[:, 0].mean():.2f} over {len(best)} units, against {best.mean():.2f}"
        return f"{shown}: {_signed(more, '.2f')}", _above(more.low, more.high, 0.0)

    return Claim(
        "reading the right passage beats learning it",
        "recall .60 against .41, .68 against .52, .63 against .46",
        *_where_run(gold, told),
        "unit by unit, recall with the gold passage is above that of the best epoch",
    )


def _circuits(drift: "pd.DataFrame") -> Claim:
    def told(drift: "pd.DataFrame") -> tuple[str, bool | None]:
        beyond = int(drift["beyond_noise"].sum())
        shown = (
            f"{_range(drift['overlap'], '.2f')}; two halves of the facts at one checkpoint: "
            f"{_range(drift['floor'], '.2f')}; beyond that noise in {beyond} of {len(drift)} epochs"
        )
        return shown, True if beyond == len(drift) else None

    return Claim(
        "the circuit's edges are others from the first epoch on",
        "edge Jaccard with epoch 0 about .41 to .44 at every epoch (axis limits); no noise floor",
        *_where_run(drift if len(drift) else None, told),
        "every epoch is beyond the noise floor",
    )


def _function(function: "pd.DataFrame | None") -> Claim:
    def told(function: "pd.DataFrame") -> tuple[str, bool | None]:
        if function["kept"].isna().any():
            return NO_EFFECT, None
        later, before = function[function["step"] > function["step"].min()], function.iloc[0]
        least = later.loc[later["kept"].idxmin()]
        shown = (
            f"{_range(later['first'], '.0%')} (before: {before['first']:.0%}), at least {least['kept']:.0%} "
            f"[{least['kept_low']:.0%}, {least['kept_high']:.0%}] of it; each epoch's own circuit "
            f"{_range(later['own'], '.0%')} ({int(before['edges']):,} edges)"
        )
        return shown, _above(float(later["kept_low"].min()), float(later["kept_high"].min()), FUNCTION)

    return Claim(
        "the circuit from before training goes on working",
        "96.5 to 100 % of the model's logit difference (1B; 12.9 % of the edges)",
        *_where_run(function, told),
        "at least 96.5 % of what it does before training, at every epoch",
    )


def _range(values: "pd.Series", form: str) -> str:
    """Least and greatest, once where they read alike."""
    return " to ".join(dict.fromkeys(format(value, form) for value in (values.min(), values.max())))


def _named(skill: str) -> str:
    return skill.replace("_", " ")


def _signed(value: Estimate, form: str) -> str:
    """A change with its interval, or that one seed tells none."""
    if math.isnan(value.low):
        return f"{value.value:+{form}} (no interval: one seed)"
    return f"{value.value:+{form}} [{value.low:+{form}}, {value.high:+{form}}]"


def _paths(every: Sequence[Trained], skill: str, form: str = ".2f") -> str:
    """First to last value under each seed; the first once, where all begin alike."""
    ends = [tuple(format(one.log[skill].iloc[place], form) for place in (0, -1)) for one in every]
    if len({first for first, _ in ends}) == 1:
        return f"{ends[0][0]} → {', '.join(last for _, last in ends)}"
    return ", ".join(f"{first} → {last}" for first, last in ends)


def _change(every: Sequence[Trained], skill: str) -> Estimate:
    """From the first to the last epoch, over seeds; no interval of one."""
    each = np.array([float(one.log[skill].iloc[-1] - one.log[skill].iloc[0]) for one in every])
    half = seeds_reach(each) if len(each) > 1 else float("nan")
    return Estimate(float(each.mean()), float(each.mean()) - half, float(each.mean()) + half, len(each))


def _ratio(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole > 0 else "none"
