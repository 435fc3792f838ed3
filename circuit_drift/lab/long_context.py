"""Has it stopped learning to retrieve? The questions of arXiv 2604.02650, put to a series small enough to answer them.

Three levels, as there: what a checkpoint does after a short fine-tune (`circuit_drift.lab.sft`), how likely it finds
the answer (`needle_maps`, `interference_maps`), and which heads retrieve (`follow`, `causal_heads`); `claims` says
which of the paper's findings hold.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

import heads
from checkpoints import Series
from circuit_drift.measures import tokenizer_of
from circuit_drift.prompts import prompts_for
from heads.stats import Estimate

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from circuit_drift.sweep import Run

Maps = Mapping[int, heads.NeedleMap]
TRAINED = 512
"""Tokens of the longest rows that the shipped series was trained on."""
STILL = 0.1
"""Change of the mean NLL, in nats, below which a title does not speak of it."""
LENGTHS = (128, 256, 512, 768)
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
DISTANCES = (32, 128)
BEFORES = (0, 64, 128, 256, 384)


def follow(
    run: "Run",
    *,
    stage: str = "pretrain",
    since: int = 0,
    top_k: int = 10,
    downstream: Mapping[str, Mapping[int, float]] | None = None,
) -> heads.Monitor:
    """Monitor one stage of a run from a step on: the heads that retrieve at that step are the frozen initial set.

    Args:
        run: with retrieval scores.
        stage: of training.
        since: first step; choose one at which some head retrieves.
        top_k: length of the lists whose overlap is reported; a small share of all heads, or chance will fill it.
        downstream: column -> {step: value}, to correlate with.
    """
    points = [p for p in run if p.stage == stage and p.step is not None and p.step >= since and p.heads is not None]
    series = [(p.step, p.tokens, p.heads) for p in points if p.step is not None and p.heads is not None]
    return heads.monitor(series, top_k=top_k, downstream=downstream)


def needle_maps(
    series: Series, *, lengths: Sequence[int] = LENGTHS, depths: Sequence[float] = DEPTHS, needles: int = 4
) -> dict[int, heads.NeedleMap]:
    """Answer NLL over length and depth at every checkpoint of a series: step -> map, one needle a prompt.

    Args:
        series: the checkpoints to map; `Series.select` chooses some.
        lengths: tokens of the prompts.
        depths: of the needle.
        needles: how many of the series' own needles.
    """

    def measure(model: Any, tokenizer: Any, hidden: Sequence[heads.Needle], haystack: str) -> heads.NeedleMap:
        return heads.needle_map(model, tokenizer, hidden, haystack, lengths=lengths, depths=depths)

    return _mapped(series, needles, measure)


def interference_maps(
    series: Series, *, distances: Sequence[int] = DISTANCES, befores: Sequence[int] = BEFORES, needles: int = 8
) -> dict[int, heads.NeedleMap]:
    """Answer NLL over the text after and before the needle at every checkpoint: step -> map.

    Args:
        series: the checkpoints to map.
        distances: tokens between needle and question.
        befores: tokens before the needle.
        needles: how many of the series' own needles.
    """

    def measure(model: Any, tokenizer: Any, hidden: Sequence[heads.Needle], haystack: str) -> heads.NeedleMap:
        return heads.interference_map(model, tokenizer, hidden, haystack, distances=distances, befores=befores)

    return _mapped(series, needles, measure)


def causal_heads(
    series: Series, *, top_k: int, needles: int = 8, length: int = 256, **options: Any
) -> heads.Validation:
    """Ablate the top heads of a series' last checkpoint, ranked on some of its needles and tested on others.

    Args:
        series: whose last checkpoint is taken.
        top_k: heads to ablate.
        needles: how many to rank by, and how many others to test with.
        length: tokens of a prompt.
        options: passed on to `heads.validate`.
    """
    checkpoint = series[-1]
    source = prompts_for(checkpoint.fetch()).needles
    with checkpoint.open() as loaded:
        parts = (source.needles[:needles], source.needles[needles : 2 * needles])
        rank, test = (
            heads.needle_prompts(tokenizer_of(loaded), part, source.haystack, length=length, depths=(0.1, 0.5, 0.9))
            for part in parts
        )
        scores = heads.retrieval_scores(loaded.model, rank)
        return heads.validate(loaded.model, test, scores=scores, top_k=top_k, **options)


def _mapped(series: Series, needles: int, measure: Callable[..., heads.NeedleMap]) -> dict[int, heads.NeedleMap]:
    found = {}
    for checkpoint in series:
        source = prompts_for(checkpoint.fetch()).needles
        alone = [replace(needle, distractors=()) for needle in source.needles[:needles]]
        with checkpoint.open() as loaded:
            found[int(checkpoint.step or 0)] = measure(loaded.model, tokenizer_of(loaded), alone, source.haystack)
    return found


def maps_figure(maps: Maps) -> "go.Figure":
    """Answer PPL over length and depth, one panel a checkpoint, on one colour scale."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    from circuit_drift.report import theme

    first, last = (maps[step] for step in (min(maps), max(maps)))
    changes = dict(zip((f"{n:g}" for n in last.rows), last.row_nll - first.row_nll, strict=True))
    better = [n for n, change in changes.items() if change < -STILL]
    worse = [n for n, change in changes.items() if change > STILL]
    figure = make_subplots(cols=len(maps), shared_yaxes=True, subplot_titles=[f"step {step:,}" for step in maps])
    for column, found in enumerate(maps.values(), 1):
        heat = go.Heatmap(
            z=np.log10(found.cell_ppl),
            x=[f"{depth:g}" for depth in found.columns],
            y=[f"{length:g}" for length in found.rows],
            text=[[f"{ppl:.3g}" for ppl in row] for row in found.cell_ppl],
            texttemplate="%{text}",
            coloraxis="coloraxis",
        )
        figure.add_trace(heat, row=1, col=column)
    figure.update_xaxes(title_text="depth", type="category")
    figure.update_yaxes(type="category")
    figure.update_yaxes(title_text="length (tokens)", col=1)
    figure.update_layout(coloraxis={"colorscale": "Viridis_r", "cmin": 0, "colorbar": {"title": {"text": "log10 PPL"}}})
    said = [f"falls at {', '.join(better)} tokens"] * bool(better) + [f"rises at {', '.join(worse)}"] * bool(worse)
    found = " and ".join(said) or "changes at no length"
    title = f"From step {min(maps):,} to {max(maps):,} the answer's perplexity {found}"
    about = f"cells: answer PPL, one needle; changes of the mean NLL under {STILL:g} nats are left out of the title"
    return theme.dress(figure, title=title, subtitle=about).update_layout(margin_t=110)


def interference_figure(maps: Maps) -> "go.Figure":
    """Answer NLL against the text before the needle, a line a checkpoint, mean over the distances."""
    import plotly.graph_objects as go

    from circuit_drift.report import theme

    figure = go.Figure()
    for i, (step, found) in enumerate(maps.items()):
        line = {"color": theme.CATEGORIES[i % 8], "dash": theme.DASHES[i % 6]}
        figure.add_scatter(x=found.columns, y=found.column_nll, name=f"step {step:,}", mode="lines+markers", line=line)
    costs = [maps[step].interference_cost() for step in (min(maps), max(maps))]
    figure.update_xaxes(title_text="tokens before the needle")
    figure.update_yaxes(title_text="answer NLL (nats per token)")
    least, most = (f"{value:g}" for value in (min(maps[max(maps)].columns), max(maps[max(maps)].columns)))
    return theme.dress(
        figure,
        title=f"{most} tokens before the needle cost {_nats(costs[0])} nats at step {min(maps):,}, "
        f"{_nats(costs[1])} at {max(maps):,}",
        subtitle=f"against {least} tokens, at the same distance to the question; 95 % intervals over needles; "
        "> 0: interference disturbs",
    )


def _nats(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


@dataclass(frozen=True, slots=True)
class Claim:
    """One finding of the literature beside ours.

    Attributes:
        claim: what is said.
        published: its figures.
        here: ours.
        holds: whether ours agree; None where they decide nothing.
    """

    claim: str
    published: str
    here: str
    holds: bool | None


def claims(
    monitor: heads.Monitor,
    last: heads.RetrievalScores,
    *,
    maps: Maps,
    interference: Maps,
    ablations: Sequence[heads.Validation],
) -> "pd.DataFrame":
    """The findings of arXiv 2604.02650 and 2404.15574, their figures, ours, and whether ours agree.

    Args:
        monitor: from the first step at which heads retrieve, with downstream scores.
        last: scores of the last checkpoint.
        maps: of `needle_maps`.
        interference: of `interference_maps`.
        ablations: of `causal_heads`.
    """
    import pandas as pd

    rows = [
        _deception(monitor),
        _amplified(monitor),
        _stable(monitor, last),
        _few(last),
        *_correlated(monitor),
        _better_than_score(monitor),
        _middle(maps),
        _interference(interference),
        *(_causal(found) for found in ablations),
    ]
    words = {True: "yes", False: "no", None: "undecided"}
    columns = {"claim": [r.claim for r in rows], "published": [r.published for r in rows]}
    return pd.DataFrame(columns | {"here": [r.here for r in rows], "reproduced": [words[r.holds] for r in rows]})


def _deception(monitor: heads.Monitor) -> Claim:
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


def _amplified(monitor: heads.Monitor) -> Claim:
    curve, count = monitor.curves["initial_set_mean"], monitor.curves["retrieval_heads"]
    here = (
        f"mean score of the {len(monitor.initial_set)} heads of step {monitor.steps[0]:,}: {curve.value[0]:.2f} to "
        f"{curve.value[-1]:.2f} [{curve.low[-1]:.2f}, {curve.high[-1]:.2f}]; heads {count.value[0]:.0f} to "
        f"{count.value[-1]:.0f}"
    )
    risen = bool(curve.low[-1] > curve.high[0])
    return Claim("the heads that retrieve at first retrieve more later", "it rises (figure 5)", here, risen)


def _stable(monitor: heads.Monitor, last: heads.RetrievalScores) -> Claim:
    """Held to the paper's least values, with the overlap that two random lists would have beside it."""
    shares = [t.agreement.shared / t.agreement.k for t in monitor.transitions]
    ranks = [t.agreement.spearman for t in monitor.transitions]
    k = max(t.agreement.k for t in monitor.transitions)
    here = (
        f"{min(shares):.0%} to {max(shares):.0%} of the top {k} (by chance {k / last.mean.size:.0%}), "
        f"Spearman {min(ranks):.2f} to {max(ranks):.2f}"
    )
    published = "24 to 29 of the top 30 (by chance 3 %), Spearman 0.73 to 0.92"
    holds = min(shares) >= 24 / 30 and min(ranks) >= 0.73
    return Claim("the top heads stay the same between checkpoints", published, here, holds)


def _few(last: heads.RetrievalScores) -> Claim:
    share = last.count() / last.mean.size
    here = f"{last.count()} of {last.mean.size} ({share:.0%})"
    return Claim("few heads retrieve", "3 to 6 % of heads (2404.15574)", here, share <= 0.06)


PRINTED = {
    ("needle_accuracy", "codes"): "+0.86 (RULER)",
    ("answer_ppl", "codes"): "-0.91 (RULER)",
    ("retrieval_heads", "codes"): "+0.82 (RULER)",
    ("initial_set_mean", "codes"): "+0.90 (RULER)",
    ("needle_accuracy", "lives"): "+0.50 (LongBio)",
    ("answer_ppl", "lives"): "-0.63 (LongBio)",
    ("retrieval_heads", "lives"): "+0.57 (LongBio)",
    ("initial_set_mean", "lives"): "+0.62 (LongBio)",
}
"""Pearson r over six checkpoints, arXiv 2604.02650, table 4, by metric and the kind of task."""


def _correlated(monitor: heads.Monitor) -> list[Claim]:
    """One claim for each metric and downstream column: holds when the interval of r lies on the published side of 0."""
    out = []
    for found in monitor.correlations:
        printed = PRINTED.get((found.metric, found.downstream.removeprefix("sft_")))
        if printed is None:
            continue
        sign = -1 if printed.startswith("-") else 1
        holds = True if min(sign * found.low, sign * found.high) > 0 else False if sign * found.r < 0 else None
        here = f"{found.r:+.2f} [{found.low:+.2f}, {found.high:+.2f}], permutation p {found.p_permutation:.2g}"
        out.append(Claim(f"{found.metric} goes with {found.downstream}", f"r = {printed}", f"r = {here}", holds))
    return out


def _better_than_score(monitor: heads.Monitor) -> Claim:
    """Whether the perplexity is the better sign: decided where the one interval of |r| lies beyond the other."""
    found = {c.metric: c for c in monitor.correlations if c.downstream.endswith("codes")}
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
    here = f"middle penalty {_nats(penalty)} nats at step {max(maps):,}, up to {TRAINED} tokens"
    holds = True if penalty.low > 0 else False if penalty.high < 0 else None
    return Claim("needles at 30 to 80 % depth are lost in the middle", "PPL high there at 16K to 64K", here, holds)


def _interference(maps: Maps) -> Claim:
    early, late = (maps[step].interference_cost() for step in (min(maps), max(maps)))
    here = f"cost {_nats(early)} nats at step {min(maps):,}, {_nats(late)} at step {max(maps):,}"
    claim = "text before the needle disturbs before training and hardly after it"
    return Claim(claim, "PPL rises with it, then nearly flat", here, bool(early.low > 0 and late.high < early.low))


def _causal(found: heads.Validation) -> Claim:
    score = found.estimate(found.tested)
    spared = [found.estimate(control) for control in found.controls["layer_matched"]]
    here = (
        f"{len(found.tested.heads)} heads ({found.tested.kind}, {found.tested.scope}): needle score {score}; "
        f"random heads of the same layers {min(s.value for s in spared):.3g} at worst"
    )
    claim = "masking the retrieval heads ends retrieval, masking others does not"
    holds = score.high < 0.5 < min(s.low for s in spared)
    return Claim(claim, "top 5 % masked: needle score below 0.5 (2404.15574)", here, holds)
