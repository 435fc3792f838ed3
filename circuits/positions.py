"""Edge scores by position: token by token, or by named segments of the prompt.

An edge u -> v joins u's output to v's input at one and the same position, so its score is a sum over positions. Here
the summands are kept apart; they add up to the scores of `circuits.attribute`. The passes are the same, and memory
grows by one [F, B] table for each unit and segment.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from checkpoints.errors import BadPrompt, CorruptWeights
from circuits.facts import FactSet
from circuits.scores import AttributionGraph

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel

    from circuits.attribution import Method, Rule
    from circuits.expansion import KeyValue
    from circuits.metrics import Metric, MetricName
    from circuits.trace import Batch

By = Literal["segment", "token"]
Runs = tuple[tuple[tuple[int, int, int], ...], ...]
AUTOMATIC = ("changed", "last", "answer", "rest")


@dataclass(frozen=True)
class PositionScores:
    """Edge scores for each segment of the prompts.

    Attributes:
        graphs: one graph for each segment, with the summands of its positions; their metrics are of the whole prompts.
    """

    graphs: Mapping[str, AttributionGraph]

    @property
    def segments(self) -> tuple[str, ...]:
        """Names of the segments."""
        return tuple(self.graphs)

    def __getitem__(self, segment: str) -> AttributionGraph:
        """The graph of one segment.

        Raises:
            BadPrompt: there is no such segment.
        """
        if segment not in self.graphs:
            raise BadPrompt(f"no segment {segment!r}; segments: {', '.join(self.graphs)}")
        return self.graphs[segment]

    @cached_property
    def whole(self) -> AttributionGraph:
        """The graph without positions: the sum over the segments."""
        graphs = list(self.graphs.values())
        return replace(graphs[0], scores=np.sum([graph.scores for graph in graphs], axis=0))

    def to_frame(self) -> "pd.DataFrame":
        """One row an edge and segment, strongest first: edge, segment, score, its standard error over the units."""
        import pandas as pd

        frames = [graph.to_frame().assign(segment=name) for name, graph in self.graphs.items()]
        frame = pd.concat(frames)[["edge", "segment", "writer", "reader", "score", "stderr"]]
        return frame.sort_values("score", key=np.abs, ascending=False, ignore_index=True, kind="stable")

    def _repr_html_(self) -> str:
        head = f"<p><b>Edge scores by position</b>: {', '.join(self.segments)}</p>"
        return str(head + self.to_frame().head(20).to_html(index=False, border=0))


def attribute_positions(
    model: "PreTrainedModel",
    facts: FactSet,
    *,
    by: By = "segment",
    method: "Method" = "eap-ig",
    metric: "MetricName | Metric" = "logit difference",
    ig_steps: int = 5,
    rule: "Rule" = "midpoint",
    groups: int | None = 1,
    kv: "KeyValue" = "groups",
    batch_size: int = 8,
    chunk_mb: float | None = None,
) -> PositionScores:
    """Score every edge for each segment of the prompts.

    Args:
        model: a decoder in Hugging Face form.
        facts: N clean/corrupt pairs.
        by: ``segment``: the segments that the facts name; of all other positions those at which the prompts differ
            (``changed``), the last of the prompt (``last``, which no named segment takes), those of the answer's tokens
            that are read (``answer``), and what remains (``rest``; before the first change it scores exactly 0).
            ``token``: each position by itself; all facts must be of one length.
        method: any but ``flow``.
        metric: as for `circuits.attribute`.
        ig_steps: as for `circuits.attribute`.
        rule: as for `circuits.attribute`.
        groups: means over this many disjoint groups of facts, by default one of all; ``None`` for every fact's own.
        kv: as for `circuits.attribute`.
        batch_size: facts in one forward pass. Scores do not depend on it.
        chunk_mb: memory for the contraction's buffers.

    Raises:
        UnsupportedArchitecture: the model's parts cannot be told apart exactly.
        CorruptWeights: the scores are not finite.
        BadPrompt: an argument out of range, or facts of different lengths by token.
    """
    import torch

    from checkpoints.anatomy import anatomy
    from circuits.attribution import find_plan, graph_shape
    from circuits.contract import Contraction
    from circuits.expansion import expanded, view
    from circuits.metrics import find_metric, require_gradient
    from circuits.paths import PathScorer
    from circuits.trace import batches, frozen

    if by not in get_args(By):
        raise BadPrompt(f"unknown by {by!r}; choose from {', '.join(get_args(By))}")
    plan = find_plan(method, ig_steps, rule)
    if plan is None:
        raise BadPrompt(f"method={method!r} averages over positions; use circuits.attribute")
    name, measure = find_metric(metric, facts)
    require_gradient(name, method)
    names, runs = _by_token(facts) if by == "token" else _by_segment(facts)
    group, size = facts.units(groups), len(names)
    parts = view(anatomy(model), kv)
    shape = graph_shape(parts)
    device = next(model.parameters()).device
    dtype = torch.float64 if next(model.parameters()).dtype == torch.float64 else torch.float32
    units = int(group.max()) + 1
    scores = torch.zeros(units * size, *shape.mask.shape, dtype=dtype)
    clean, corrupt, rank = (torch.zeros(len(facts), dtype=d) for d in (torch.float64, torch.float64, torch.int64))
    scorer = PathScorer(Contraction(parts, shape, dtype, chunk_mb), plan, measure, None, False)
    with frozen(model), expanded(parts):
        for number, batch in enumerate(batches(facts, batch_size, device)):
            scored = scorer(_split(batch, runs, size), check=number == 0)
            index = list(batch.indices)
            for kept, value in ((clean, scored.clean_metric), (corrupt, scored.corrupt_metric), (rank, scored.rank)):
                kept[index] = value.to("cpu", kept.dtype)
            targets = torch.as_tensor(group[index])[:, None] * size + torch.arange(size)
            scores.index_add_(0, targets.flatten(), scored.scores.cpu().transpose(1, 2) * torch.as_tensor(shape.mask))
    if not bool(torch.isfinite(scores).all()):
        raise CorruptWeights("edge scores are not finite; try dtype float32, and check the weights")
    found = scores.numpy().reshape(units, size, *shape.mask.shape) / np.bincount(group)[:, None, None, None]
    meta = {"method": method, "ig_steps": len(plan.alphas), "rule": rule, "metric": name, "prompts": facts.hash}
    return PositionScores(
        {
            segment: AttributionGraph(
                scores=found[:, place].astype(scores.numpy().dtype),
                shape=shape,
                clean_metric=clean.numpy(),
                corrupt_metric=corrupt.numpy(),
                answer_rank=rank.numpy(),
                group=group,
                labels=tuple(dict(fact.labels) for fact in facts.facts),
                meta={**meta, "segment": segment},
            )
            for place, segment in enumerate(names)
        }
    )


def _by_token(facts: FactSet) -> tuple[tuple[str, ...], Runs]:
    """Every position is a segment of its own."""
    lengths = sorted(set(facts.lengths))
    if len(lengths) > 1:
        raise BadPrompt(
            f"the facts have from {lengths[0]} to {lengths[-1]} tokens, so one position is not the same in all; choose "
            "facts of one length, or use by='segment'"
        )
    run = tuple((place, place, place + 1) for place in range(lengths[0]))
    return tuple(str(place) for place in range(lengths[0])), (run,) * len(facts)


def _by_segment(facts: FactSet) -> tuple[tuple[str, ...], Runs]:
    """Named segments first, then what the other positions are."""
    named = [dict(spans) for spans in facts.segments] or [{} for _ in range(len(facts))]
    if clash := {name for spans in named for name in spans} & set(AUTOMATIC):
        raise BadPrompt(f"segments must not be named {', '.join(sorted(clash))}; those names are given by themselves")
    names = (*dict.fromkeys(name for spans in named for name in spans), *AUTOMATIC)
    rows = []
    for index, spans in enumerate(named):
        clean, corrupt = facts.clean[index], facts.corrupt[index]
        kinds = ["changed" if a != b else "rest" for a, b in zip(clean, corrupt, strict=True)]
        kinds[-1] = "last"
        for name, (start, stop) in spans.items():
            if taken := set(kinds[start:stop]) & set(spans):
                raise BadPrompt(f"fact {index}: the segments {name!r} and {taken.pop()!r} overlap")
            kinds[start:stop] = [name if kind != "last" else "last" for kind in kinds[start:stop]]
        kinds += ["answer"] * (facts.lengths[index] - len(clean))
        stretches, start = [], 0
        for kind, members in groupby(kinds):
            stop = start + len(list(members))
            stretches.append((names.index(kind), start, stop))
            start = stop
        rows.append(tuple(stretches))
    used = {place for stretches in rows for place, _, _ in stretches}
    order = {place: number for number, place in enumerate(sorted(used))}
    runs = tuple(tuple((order[place], start, stop) for place, start, stop in stretches) for stretches in rows)
    return tuple(names[place] for place in order), runs


def _split(batch: "Batch", runs: Runs, size: int) -> "Batch":
    """The batch with its rows' scores kept apart by segment."""
    stretches = tuple(
        tuple((row * size + place, start, stop) for place, start, stop in runs[index])
        for row, index in enumerate(batch.indices)
    )
    return replace(batch, segments=size, stretches=stretches)
