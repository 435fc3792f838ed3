"""What Mousavi, Alghisi and Riccardi (2026, arXiv 2601.03858) report, beside what a run of one's own shows.

Their figures are those of LoRA over ten epochs on 100 entities unless a row says otherwise, for Llama-3.2-1B,
Llama-3.1-8B and OLMo-7B in this order. Every figure of ours is computed from a run, and so is whether it agrees, by the
rule that the table states.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from checkpoints.stats.shares import exact_share_interval
from checkpoints.stats.ttests import mean_interval
from circuit_drift.replicate.claims import Claim
from circuit_drift.training.strategies.comparison import LOSS, Trained

if TYPE_CHECKING:
    import pandas as pd

Run = TypeVar("Run")
HELD = (0.30, 0.56)
KEPT = (0.41, 0.75)
OVERLAP = (0.41, 0.44)
FUNCTION = 0.965
SLACK = 0.03
LITTLE = 0.02
NOT_RUN = "not run"
"""Told in place of figures."""


def claims_frame(
    lora: Trained,
    *,
    kl: Trained | None = None,
    main: Trained | None = None,
    references: "pd.DataFrame | None" = None,
    drift: "pd.DataFrame | None" = None,
    function: "pd.DataFrame | None" = None,
    skill: str = "needle_accuracy",
) -> "pd.DataFrame":
    """The table of claims; what was not run stands there as `NOT_RUN`, its claims undecided.

    Args:
        lora: the strategy that most of the claims are about.
        kl: KL to the original model.
        main: main documents only.
        references: `comparison.retrieval_frame`.
        drift: `drift.drift_frame` of the circuits; None = those that were traced while ``lora`` was trained.
        function: `drift.function_frame` of the transfer between epochs of ``lora``.
        skill: the accuracy outside the domain, a column of the logs.
    """
    import pandas as pd

    rows = [
        *_learning(lora),
        _decline(lora, skill),
        *_kept_near(lora, kl, skill),
        _main_alone(main),
        _reading(lora, references),
        _circuits(lora.drift() if drift is None else drift),
        _function(function),
    ]
    columns = {"claim": "words", "paper": "published", "ours": "here", "reproduced": "answer", "rule": "rule"}
    return pd.DataFrame([{name: getattr(row, field) for name, field in columns.items()} for row in rows])


def _where_run(run: Run | None, told: Callable[[Run], tuple[str, bool]]) -> tuple[str, bool | None]:
    """What a run shows and whether it agrees."""
    return (NOT_RUN, None) if run is None else told(run)


def _learning(lora: Trained) -> Iterator[Claim]:
    loss, falls = lora.log[LOSS], lora.divergence
    yield Claim(
        "the loss falls throughout",
        "perplexity 12.6 → 10.3, 7.8 → 5.6, 8.5 → 7.7",
        f"loss {loss.iloc[0]:.2f} → {loss.iloc[-1]:.2f}; it fell in {sum(falls.loss_fell)} of {len(falls.loss_fell)} "
        "epochs",
        bool(all(falls.loss_fell)),
        "it falls in every epoch",
    )
    mean = lora.ledger.to_frame()["mean"]
    best, scores = int(mean.argmax()), lora.ledger.scores.mean
    low, high = (float(bound) for bound in mean_interval(scores[:, -1] - scores[:, best]))
    yield Claim(
        "recall is best before the end",
        ".30 → .41 (epoch 7) → .40; .52 → .52 → .51; .41 → .46 (epoch 1) → .35",
        f"{mean.iloc[0]:.2f} → {mean.iloc[best]:.2f} (epoch {best}) → {mean.iloc[-1]:.2f}, from best to last "
        f"{scores[:, -1].mean() - scores[:, best].mean():+.2f} [{low:+.2f}, {high:+.2f}]; recall fell in "
        f"{sum(falls.recall_fell)} of {len(falls.recall_fell)} epochs, {sum(falls.certain)} of them beyond chance",
        bool(high < 0) if high < 0 or best == len(mean) - 1 else None,
        "the best epoch is not the last, and the interval of the fall from it, over units, leaves 0 out",
    )
    book = lora.ledger.outcome
    held, learned = book["newly_learned_held"], book["newly_learned"]
    yield Claim(
        "half or more of what is newly learned is lost again",
        "held at the end: 10 of 18, 6 of 20, 6 of 17",
        f"{_share(held, learned)} held{_interval(held, learned)}",
        bool(_agrees(held, learned, HELD)),
        f"our 95 % interval meets {HELD[0]:g} to {HELD[1]:g}",
    )
    kept, first = book["kept"], book["known_first"]
    yield Claim(
        "a part of what was known is lost",
        "kept: 7 of 12, 27 of 36, 7 of 17",
        f"{_share(kept, first)} kept{_interval(kept, first)}",
        bool(_agrees(kept, first, KEPT)),
        f"our 95 % interval meets {KEPT[0]:g} to {KEPT[1]:g}",
    )


def _decline(lora: Trained, skill: str) -> Claim:
    return Claim(
        "skills outside the domain decline",
        "MMLU .40 → .24, .66 → .38, .50 → .43",
        f"{_named(skill)} {_path(lora, skill)}; perplexity of other text {_path(lora, 'text_ppl')}",
        bool(_change(lora, skill) < -SLACK and _change(lora, "text_ppl") > 0),
        "both are worse at the end, accuracy by more than 3 points",
    )


def _kept_near(lora: Trained, kl: Trained | None, skill: str) -> Iterator[Claim]:
    def keeps(run: Trained) -> tuple[str, bool]:
        part = _ratio(_change(run, "text_ppl"), _change(lora, "text_ppl"))
        text = f"perplexity of other text {_path(run, 'text_ppl')}, {part} of LoRA's rise"
        return f"{_named(skill)} {_path(run, skill)}; {text}", bool(_change(run, skill) >= -SLACK)

    def learns(run: Trained) -> tuple[str, bool]:
        book, units = run.ledger.outcome, len(run.ledger.scores.units)
        net = book["known_last"] - book["known_first"]
        held = _share(book["newly_learned_held"], book["newly_learned"])
        shown = f"{net:+d} of {units} units known; {held} of those ever learned are held"
        return shown, abs(net) <= max(1, LITTLE * units)

    yield Claim(
        "KL to the original model keeps them", "1 to 3 points lost", *_where_run(kl, keeps), "at most 3 points lost"
    )
    yield Claim(
        "and learns nearly nothing",
        "+1 to +2 of 100 entities",
        *_where_run(kl, learns),
        "at most 2 of 100 more",
    )


def _main_alone(main: Trained | None) -> Claim:
    def told(run: Trained) -> tuple[str, bool]:
        known = run.ledger.known.sum(axis=0)
        peak, units = int(known.argmax()), len(run.ledger.scores.units)
        path = f"{known[0]} → {known[peak]} (epoch {peak}) → {known[-1]} of {units} units known"
        early = peak < len(known) // 2 and bool(known[-1] < known[peak])
        return f"{path} in {len(known) - 1} epochs", early

    return Claim(
        "main documents alone: an early peak, then a fall",
        "18 of 100 in epoch 1, 0 by epoch 30",
        *_where_run(main, told),
        "the peak is in the first half, and the end below it",
    )


def _reading(lora: Trained, references: "pd.DataFrame | None") -> Claim:
    def told(asked: "pd.DataFrame") -> tuple[str, bool]:
        gold, learned = asked[asked["passages"] == "gold"].iloc[0], lora.ledger.to_frame()["mean"].max()
        shown = f"recall {gold['recall']:.2f} over {gold['asked']} probes, against {learned:.2f}"
        return shown, bool(gold["recall"] > learned)

    return Claim(
        "reading the right passage beats learning it",
        "recall .60 against .41, .68 against .52, .63 against .46",
        *_where_run(references, told),
        "recall with the gold passage is above the best epoch's",
    )


def _circuits(drift: "pd.DataFrame") -> Claim:
    def told(drift: "pd.DataFrame") -> tuple[str, bool]:
        beyond = int(drift["beyond_noise"].sum())
        shown = (
            f"{_range(drift['overlap'], '.2f')}; two halves of the facts at one checkpoint: "
            f"{_range(drift['floor'], '.2f')}; beyond that noise in {beyond} of {len(drift)} epochs"
        )
        return shown, beyond == len(drift)

    return Claim(
        "the circuit's edges are others from the first epoch on",
        "edge Jaccard with epoch 0 about .41 to .44 at every epoch (axis limits); no noise floor",
        *_where_run(drift if len(drift) else None, told),
        "every epoch is beyond the noise floor",
    )


def _function(function: "pd.DataFrame | None") -> Claim:
    def told(function: "pd.DataFrame") -> tuple[str, bool]:
        later, before = function[function["step"] > function["step"].min()], function.iloc[0]
        shown = (
            f"{_range(later['first'], '.0%')} (before: {before['first']:.0%}); each epoch's own circuit "
            f"{_range(later['own'], '.0%')} ({int(before['edges']):,} edges)"
        )
        return shown, bool((later["first"] >= FUNCTION * before["first"]).all())

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


def _agrees(hits: int, total: int, band: tuple[float, float]) -> bool:
    """Whether the exact interval of a share meets a band."""
    if not total:
        return False
    low, high = exact_share_interval(hits, total)
    return low <= band[1] and high >= band[0]


def _interval(hits: int, total: int) -> str:
    if not total:
        return ""
    low, high = exact_share_interval(hits, total)
    return f", 95 % interval {low:.0%} to {high:.0%}"


def _share(hits: int, total: int) -> str:
    return f"{hits} of {total}" + (f" ({hits / total:.0%})" if total else "")


def _path(one: Trained, skill: str) -> str:
    return f"{one.log[skill].iloc[0]:.2f} → {one.log[skill].iloc[-1]:.2f}"


def _change(one: Trained, skill: str) -> float:
    return float(one.log[skill].iloc[-1] - one.log[skill].iloc[0])


def _ratio(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole > 0 else "none"
