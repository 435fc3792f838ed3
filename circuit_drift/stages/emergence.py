"""When the metrics of a run emerge, and in which order: needles, heads, facts, edges, roles, on one line of training.

Every metric is resampled over its own units, needles or facts, the same ones at every checkpoint.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt
from checkpoints.results.figure import CATEGORIES, DASHES, SYMBOLS, dress
from checkpoints.stats.bootstrap import resampled_means, resampling, stretched
from checkpoints.stats.emergence import Emergence, Order, emergence, order
from checkpoints.stats.units import Floats
from circuit_drift.record.record import Point, RunRecord
from circuit_drift.stages.stages import line
from heads.scores.names import parse_head
from heads.scores.scores import THRESHOLD, retrieves

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

DRAWS = 1000
WORDS = {"answer_nll": "answer NLL", "retrieval_heads": "number of retrieval heads"}
OF = {"recall": "recall of"}
NEEDLES = ("needle_accuracy", "needle_score", "answer_nll", "retrieval_heads")
METRICS = (
    "needle_accuracy, needle_score, answer_nll, retrieval_heads, head:a0.h1, recall, recall:CLASS, edge:a0.h1->m2, "
)
METRICS += "node:a0.h1, role:ROLE:a0.h1"
"""What can be asked for."""


def metric_in_words(metric: str) -> str:
    """A metric as a reader names it: ``head:a1.h2`` is head a1.h2, ``recall:old`` recall of old."""
    kind, _, rest = metric.partition(":")
    return WORDS.get(metric, metric.replace("_", " ")) if not rest else f"{OF.get(kind, kind)} {rest.replace(':', ' ')}"


@dataclass(frozen=True)
class RunEmergence:
    """When metrics of one run emerge.

    Attributes:
        found: one for each metric, in the order asked for.
        values: metric -> its value at each of its steps.
        notes: metrics that could not be followed, and why.
    """

    found: tuple[Emergence, ...]
    values: dict[str, Floats]
    notes: tuple[str, ...] = ()

    @property
    def orders(self) -> tuple[Order, ...]:
        """Every pair of metrics that emerged inside the run."""
        inside = [one for one in self.found if one.outcome in ("emerged", "gone again")]
        return tuple(order(*pair) for pair in combinations(inside, 2))

    @property
    def findings(self) -> tuple[str, ...]:
        """When each emerges, a sentence each, then in one what comes before what; metrics in words."""
        worded = self.worded
        told = [*map(str, worded.found), *_in_order(worded), *self.notes]
        return tuple(f"{sentence[0].upper()}{sentence[1:]}." for sentence in told)

    @property
    def worded(self) -> "RunEmergence":
        """The same with every metric named as a reader names it."""
        found = tuple(replace(one, metric=metric_in_words(one.metric)) for one in self.found)
        return replace(self, found=found, values={metric_in_words(name): value for name, value in self.values.items()})

    def to_frame(self) -> "pd.DataFrame":
        """One row a metric: metric, outcome, threshold, after, by, low, high (steps; empty = open on that side)."""
        import pandas as pd

        names = ("metric", "outcome", "threshold", "after", "by", "low", "high")
        frame = pd.DataFrame([{name: getattr(one, name) for name in names} for one in self.found], columns=list(names))
        return frame.astype(dict.fromkeys(("after", "by", "low", "high"), "Int64"))

    def order_frame(self) -> "pd.DataFrame":
        """One row a pair of metrics: first, second, before, after (shares of resamples), outcome."""
        import pandas as pd

        names = ("first", "second", "before", "after", "outcome")
        return pd.DataFrame([{name: getattr(one, name) for name in names} for one in self.orders], columns=list(names))

    def plot(self) -> "go.Figure":
        """Every metric from its first value (0) to its last (1), with the interval of its emergence as a bar below."""
        import plotly.graph_objects as go

        figure = go.Figure()
        for place, one in enumerate(self.found):
            colour = CATEGORIES[place % len(CATEGORIES)]
            value = self.values[one.metric]
            reach = value[-1] - value[0] or 1.0
            figure.add_scatter(
                x=one.steps,
                y=(value - value[0]) / reach,
                name=one.metric,
                line={"color": colour, "dash": DASHES[place % len(DASHES)]},
                marker={"symbol": SYMBOLS[place % len(SYMBOLS)]},
            )
            if one.low is not None and one.high is not None:
                bar = {"color": colour, "width": 6}
                at = [-0.1 * (place + 1)] * 2
                figure.add_scatter(
                    x=[one.low, one.high], y=at, mode="lines", line=bar, showlegend=False, name=one.metric
                )
        figure.update_xaxes(title_text="step", tickformat=",")
        figure.update_yaxes(title_text="share of its way from first to last", tickvals=[0, 0.5, 1])
        title = str(self.found[0]) if self.found else "nothing to follow"
        return dress(figure, title=title, subtitle="bars: 95 % intervals of the step of emergence", height=480)


def _in_order(found: RunEmergence) -> list[str]:
    """What comes before what, those that are certain, with the least share of resamples that say so."""
    told = [one for one in found.orders if one.outcome != "cannot be told"]
    if not told:
        return []
    later: dict[str, list[str]] = {}
    for one in told:
        first, second = (one.first, one.second) if one.outcome == "before" else (one.second, one.first)
        later.setdefault(first, []).append(second)
    least = min(max(one.before, one.after) for one in told)
    order = "; ".join(f"{first} before {', '.join(others)}" for first, others in later.items())
    share = "all" if least == 1 else f"{int(100 * least)} % or more of the"
    return [f"in this order, in {share} resamples of the prompts: {order}"]


@dataclass(frozen=True)
class _Followed:
    """One metric at every checkpoint that has it: what each unit says, [C] arrays [n, ...], and how to sum it up."""

    steps: list[int]
    units: list[Floats]
    cluster: NDArray[np.integer]
    sum_up: Callable[[Floats], Floats] = lambda means: means
    threshold: float | None = None


def run_emergence(
    run: RunRecord,
    metrics: Sequence[str] = (),
    *,
    stage: str | None = None,
    branch: str | None = None,
    thresholds: dict[str, float] | None = None,
    draws: int = DRAWS,
) -> RunEmergence:
    """When metrics of a run emerge: the step with an interval, and which comes first.

    Args:
        run: with heads, a circuit or roles at three checkpoints at least.
        metrics: ``needle_accuracy``, ``needle_score``, ``answer_nll`` (log PPL), ``retrieval_heads``, ``head:a0.h1``,
            ``recall``, ``recall:CLASS``, ``edge:a0.h1->m2``, ``node:a0.h1``, ``role:ROLE:a0.h1``; by default recall,
            the needle readouts, the number of heads and the head that leads at the end.
        stage: of training, where only one is followed.
        branch: with what all branches share.
        thresholds: metric -> level it must pass; by default 0.1 for a head, a role's own, halfway for the others.
        draws: resamples of needles or facts.

    Raises:
        BadPrompt: several lines of training, or an unknown metric.
        StoreError: no such stage or branch.
    """
    points = line(run, stage, branch)
    found, values, notes = [], {}, []
    for metric in metrics or _usual(points):
        followed = _follow(points, metric)
        if followed is None:
            notes.append(f"{metric} is not followed: no checkpoint has it; measure it first")
            continue
        try:
            value, spread = _resampled(followed, draws)
            threshold = (thresholds or {}).get(metric, followed.threshold)
            found.append(emergence(metric, followed.steps, value, spread, threshold=threshold))
        except BadPrompt as reason:
            notes.append(f"{metric} is not followed: {reason}")
            continue
        values[metric] = value
    return RunEmergence(tuple(found), values, tuple(notes))


def _usual(points: Sequence[Point]) -> list[str]:
    """The metrics that are followed unless some are asked for."""
    scored = [point.heads for point in points if point.heads is not None]
    leader = [f"head:{best.name}" for best in scored[-1].top(1)] if scored else []
    recall = ["recall"] if any(point.circuit is not None for point in points) else []
    return [*recall, *(["retrieval_heads", *leader, "needle_score", "needle_accuracy", "answer_nll"] if scored else [])]


def _follow(points: Sequence[Point], metric: str) -> _Followed | None:
    """What the units of a metric say at each checkpoint; None where none has it.

    Raises:
        BadPrompt: no metric of that name.
    """
    kind, _, rest = metric.partition(":")
    if kind in NEEDLES or kind == "head":
        return _of_needles(points, kind, rest)
    if kind in ("recall", "edge", "node"):
        return _of_facts(points, kind, rest)
    if kind == "role":
        return _of_roles(points, rest)
    raise BadPrompt(f"no metric {metric!r} of a run; there are {METRICS}")


def _of_needles(points: Sequence[Point], kind: str, head: str) -> _Followed | None:
    scored = [
        (point.position, point.heads) for point in points if point.heads is not None and point.position is not None
    ]
    if not scored:
        return None
    steps, scores = [step for step, _ in scored], [score for _, score in scored]
    if len({score.meta["prompts"] for score in scores}) > 1:
        raise BadPrompt(f"the needles differ between checkpoints, so {kind} cannot be followed: measure all on one set")
    cluster = np.asarray(scores[0].cluster)
    if kind == "head":
        layer, place = parse_head(head, scores[0].shape)
        return _Followed(steps, [s.copy[:, layer, place] for s in scores], cluster, threshold=THRESHOLD)
    if kind == "retrieval_heads":
        return _Followed(steps, [s.copy for s in scores], cluster, sum_up=_count)
    read = {"needle_accuracy": "correct", "needle_score": "accepted", "answer_nll": "prompt_nll"}[kind]
    return _Followed(steps, [np.asarray(getattr(s, read), dtype=float) for s in scores], cluster)


def _count(means: Floats) -> Floats:
    """[D] heads that retrieve, from mean scores [D, L, H]."""
    return np.asarray(retrieves(means).sum(axis=(-2, -1)), dtype=float)


def _of_facts(points: Sequence[Point], kind: str, rest: str) -> _Followed | None:
    traced = [(p.position, p.circuit) for p in points if p.circuit is not None and p.position is not None]
    if not traced:
        return None
    steps, graphs = [step for step, _ in traced], [graph for _, graph in traced]
    if len({graph.meta.get("prompts") for graph in graphs}) > 1:
        raise BadPrompt(f"the facts differ between checkpoints, so {kind} cannot be followed: measure all on one set")
    if kind == "recall":
        of_class = np.array([not rest or str(labels.get("class")) == rest for labels in graphs[0].labels])
        if not of_class.any():
            raise BadPrompt(f"no fact is of the class {rest!r}")
        units = [(graph.answer_rank == 0)[of_class].astype(float) for graph in graphs]
    elif kind == "edge":
        units = [np.asarray(graph.of_edge(rest), dtype=float) for graph in graphs]
    else:
        if rest not in graphs[0].writers:
            raise BadPrompt(f"{rest!r} is no writer of this graph; names look like {graphs[0].writers[-1]!r}")
        row = graphs[0].writers.index(rest)
        units = [np.asarray(graph.of_writers()[:, row], dtype=float) for graph in graphs]
    return _Followed(steps, units, np.arange(len(units[0])))


def _of_roles(points: Sequence[Point], rest: str) -> _Followed | None:
    role, _, head = rest.partition(":")
    read = [(p.position, p.roles) for p in points if p.roles is not None and p.position is not None]
    if not read:
        return None
    known = read[0][1]
    if role not in known.scores or head not in known.heads:
        raise BadPrompt(
            f"no role {rest!r}; there are {', '.join(known.scores)}, each of {known.heads[0]} and the others"
        )
    layer, place = parse_head(head, (known.subject.shape[1], known.subject.shape[2]))
    units = [np.asarray(roles.scores[role][:, layer, place], dtype=float) for _, roles in read]
    threshold = known.thresholds.get(role)
    return _Followed([step for step, _ in read], units, np.arange(len(units[0])), threshold=threshold)


def _resampled(followed: _Followed, draws: int) -> tuple[Floats, Floats]:
    """[C] values and [D, C] values on resampled units, reaching as far as t intervals do."""
    count = len(np.unique(followed.cluster))
    weights = np.concatenate([np.ones((1, count)), resampling(count, draws=draws)])
    means = [followed.sum_up(resampled_means(units, followed.cluster, weights)) for units in followed.units]
    table = np.stack(means, axis=1)
    return table[0], stretched(table[0], table[1:], units=count)
