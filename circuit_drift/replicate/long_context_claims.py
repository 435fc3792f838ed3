"""Which claims of the long-context papers hold for a series, each beside the published figure.

Where a figure has an interval, a claim is decided by it alone: it holds, or does not, where the interval lies on one
side of what the claim says, and is undecided where it does not.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

import heads
from checkpoints.former import attach_former
from checkpoints.stats.ttests import mean_interval
from circuit_drift.replicate.claims import Claim
from circuit_drift.replicate.long_context import TRAINED, Maps, nats
from heads.ablation.ablation import Ablation
from heads.tracking.head_track import HeadTrack

if TYPE_CHECKING:
    import pandas as pd


def claims_frame(
    monitor: HeadTrack,
    last: heads.Scores,
    *,
    maps: Maps,
    interference: Maps,
    extended: Maps,
    ablations: Sequence[Ablation],
    extended_by: int = 0,
    foretold: HeadTrack | None = None,
) -> "pd.DataFrame":
    """The claims of arXiv 2604.02650 and 2404.15574, their figures, ours, and whether ours agree.

    Args:
        monitor: from the first step at which heads retrieve, with downstream scores.
        last: scores of the last checkpoint.
        maps: of `needle_maps`.
        interference: of `interference_maps`.
        extended: of `extension_maps`.
        ablations: of `causal_heads`.
        extended_by: steps that each of ``extended`` was trained under its base.
        foretold: more checkpoints with downstream scores, for the correlations; None = the monitor's.
    """
    rows = [
        _deception(monitor),
        _amplified(monitor),
        _stable(monitor, last.mean.size),
        _few(last.count(), last.mean.size),
        *_correlated(foretold or monitor),
        _better_than_score(foretold or monitor),
        _middle(maps),
        _interference(interference),
        _extended(extended, extended_by),
        *(_causal(found) for found in ablations),
    ]
    return _table(rows)


def _table(rows: Sequence[Claim]) -> "pd.DataFrame":
    import pandas as pd

    columns = {"claim": "words", "published": "published", "here": "here", "reproduced": "answer"}
    return pd.DataFrame([{name: getattr(row, field) for name, field in columns.items()} for row in rows])


def track_claims(monitor: HeadTrack, size: int) -> "pd.DataFrame":
    """Those claims of `claims_frame` that a track alone decides, as for a further seed of a series.

    Args:
        monitor: from the first step at which heads retrieve.
        size: heads of the model.
    """
    count = int(monitor.curves["retrieval_heads"].value[-1])
    return _table([_deception(monitor), _amplified(monitor), _stable(monitor, size), _few(count, size)])


def _deception(monitor: HeadTrack) -> Claim:
    found = {saturation.metric: saturation for saturation in monitor.saturations}
    still = found["needle_score"].at
    claim = "the needle score saturates while the answer's perplexity still falls"
    published = "score near saturation at 20B tokens, PPL falls to 150B"
    if still is None:
        return Claim(claim, published, "the needle score has not saturated", None)
    trend = found["answer_nll"].after(still.step)
    if trend is None:
        return Claim(claim, published, f"the needle score saturates at step {still.step:,}, the last", None)
    slope, low, high = (100 * np.expm1(value) for value in (trend.slope, trend.low, trend.high))
    here = f"score saturated at step {still.step:,}; PPL {slope:+.0f} % [{low:+.0f}, {high:+.0f}] per doubling after it"
    return Claim(claim, published, here, True if trend.high < 0 else False if trend.saturated else None)


def _amplified(monitor: HeadTrack) -> Claim:
    curve, count = monitor.curves["initial_set_mean"], monitor.curves["retrieval_heads"]
    here = (
        f"mean score of the {len(monitor.initial_set)} heads of step {monitor.steps[0]:,}: {curve.value[0]:.2f} to "
        f"{curve.value[-1]:.2f} [{curve.low[-1]:.2f}, {curve.high[-1]:.2f}]; heads {count.value[0]:.0f} to "
        f"{count.value[-1]:.0f}"
    )
    risen = True if curve.low[-1] > curve.high[0] else False if curve.high[-1] < curve.low[0] else None
    return Claim("the heads that retrieve at first retrieve more later", "it rises (figure 5)", here, risen)


def _stable(monitor: HeadTrack, size: int) -> Claim:
    """Held to the paper's least values, with the overlap that two random lists would have beside it."""
    shares = [t.agreement.shared / t.agreement.k for t in monitor.transitions]
    ranks = [t.agreement.spearman for t in monitor.transitions]
    k = max(t.agreement.k for t in monitor.transitions)
    here = (
        f"{min(shares):.0%} to {max(shares):.0%} of the top {k} (by chance {k / size:.0%}), "
        f"Spearman {min(ranks):.2f} to {max(ranks):.2f}"
    )
    published = "24 to 29 of the top 30 (by chance 3 %), Spearman 0.73 to 0.92"
    holds = min(shares) >= 24 / 30 and min(ranks) >= 0.73
    return Claim("the top heads stay the same between checkpoints", published, here, holds)


def _few(count: int, size: int) -> Claim:
    share = count / size
    here = f"{count} of {size} ({share:.0%})"
    return Claim("few heads retrieve", "3 to 6 % of heads (2404.15574)", here, share <= 0.06)


PRINTED = {
    ("needle_accuracy", "ruler"): "+0.86 (RULER)",
    ("answer_ppl", "ruler"): "-0.91 (RULER)",
    ("retrieval_heads", "ruler"): "+0.82 (RULER)",
    ("initial_set_mean", "ruler"): "+0.90 (RULER)",
    ("needle_accuracy", "longbio"): "+0.50 (LongBio)",
    ("answer_ppl", "longbio"): "-0.63 (LongBio)",
    ("retrieval_heads", "longbio"): "+0.57 (LongBio)",
    ("initial_set_mean", "longbio"): "+0.62 (LongBio)",
}
"""Pearson r over six checkpoints, arXiv 2604.02650, table 4, by metric and benchmark."""
BENCHMARKS = {"sft_ruler": "ruler", "sft_codes": "ruler", "sft_longbio": "longbio", "sft_lives": "longbio"}
"""Downstream column -> the benchmark in whose form it asks."""


def _correlated(monitor: HeadTrack) -> list[Claim]:
    """One claim for each metric and downstream column: holds when the interval of r lies on the published side of 0."""
    out = []
    for found in monitor.correlations:
        printed = PRINTED.get((found.metric, BENCHMARKS.get(found.downstream, "")))
        if printed is None:
            continue
        low, high = sorted(float(end) * (-1 if printed.startswith("-") else 1) for end in (found.low, found.high))
        holds = True if low > 0 else False if high < 0 else None
        here = f"{found.r:+.2f} [{found.low:+.2f}, {found.high:+.2f}], permutation p {found.p_permutation:.2g}"
        out.append(Claim(f"{found.metric} goes with {found.downstream}", f"r = {printed}", f"r = {here}", holds))
    return out


def _better_than_score(monitor: HeadTrack) -> Claim:
    """Whether the perplexity is the better sign: decided where the one interval of |r| lies beyond the other."""
    found = {c.metric: c for c in monitor.correlations if BENCHMARKS.get(c.downstream) == "ruler"}
    ppl, score = found.get("answer_ppl"), found.get("needle_accuracy")
    claim, published = "perplexity is a better sign of downstream scores than the needle test", "|r| 0.91 against 0.86"
    if ppl is None or score is None:
        return Claim(claim, published, "not correlated here", None)
    here = (
        f"-r = {-ppl.r:.2f} [{-ppl.high:.2f}, {-ppl.low:.2f}] against r = {score.r:.2f} "
        f"[{score.low:.2f}, {score.high:.2f}]"
    )
    holds = True if -ppl.high > score.high else False if -ppl.low < score.low else None
    return Claim(claim, published, here, holds)


def _middle(maps: Maps) -> Claim:
    penalty = maps[max(maps)].part([n for n in maps[max(maps)].rows if n <= TRAINED]).middle_penalty()
    here = f"middle penalty {nats(penalty)} nats at step {max(maps):,}, up to {TRAINED} tokens"
    holds = True if penalty.low > 0 else False if penalty.high < 0 else None
    return Claim("needles at 30 to 80 % depth are lost in the middle", "PPL high there at 16K to 64K", here, holds)


def _interference(maps: Maps) -> Claim:
    early, late = (maps[step].interference_cost() for step in (min(maps), max(maps)))
    here = f"cost {nats(early)} nats at step {min(maps):,}, {nats(late)} at step {max(maps):,}"
    claim = "text before the needle disturbs early in training and hardly later"
    fades = early.low > 0 and late.high < early.low
    stays = early.high <= 0 or late.low > early.high
    return Claim(claim, "PPL rises with it, then nearly flat", here, True if fades else False if stays else None)


def _extended(maps: Maps, steps: int) -> Claim:
    """Decided by the interval over needles of the change of NLL beyond the trained length, on the mean over depths."""
    low, high = min(maps), max(maps)
    beyond = [n for n in maps[low].rows if n > TRAINED]
    ends = [maps[base].part(beyond) for base in (low, high)]
    ppl = [float(np.exp(end.mean_nll)) for end in ends]
    needles = np.unique(ends[0].needle)
    nll = np.array([[float(np.nanmean(end.nll[end.needle == needle])) for needle in needles] for end in ends])
    changes = nll[1] - nll[0]
    low_end, high_end = (float(end) for end in mean_interval(changes))
    how = f"{steps:,} steps of training" if steps else "no training"
    here = (
        f"base {low:,} to {high:,}, {how}: PPL at {beyond[0]:g} to {beyond[-1]:g} tokens {ppl[0]:.3g} to {ppl[1]:.3g}, "
        f"{changes.mean():+.2f} [{low_end:+.2f}, {high_end:+.2f}] nats over {len(needles)} needles"
    )
    claim = "a larger RoPE base carries retrieval beyond the trained length"
    holds = True if high_end < 0 else False if low_end > 0 else None
    return Claim(claim, "base 500K to 2M for 32K to 64K, with training", here, holds)


def _causal(found: Ablation) -> Claim:
    score = found.estimate(found.tested)
    spared = [found.estimate(control) for control in found.controls["layer_matched"]]
    here = (
        f"{len(found.tested.heads)} heads ({found.tested.kind}, {found.tested.scope}): needle score {score}; "
        f"random heads of the same layers {min(s.value for s in spared):.3g} at worst"
    )
    claim = "masking the retrieval heads ends retrieval, masking others does not"
    ends = score.high < 0.5 < min(s.low for s in spared)
    lives = score.low > 0.5 or min(s.high for s in spared) < 0.5
    holds = True if ends else False if lives else None
    return Claim(claim, "top 5 % masked: needle score below 0.5 (2404.15574)", here, holds)


__getattr__ = attach_former(__name__)
