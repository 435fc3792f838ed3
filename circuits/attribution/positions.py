"""Edge scores by position: token by token, or by named segments of the prompt.

An edge u -> v joins u's output to v's input at one and the same position, so its score is a sum over positions. Here
the summands are kept apart; they add up to the scores of `circuits.attribute`. The passes are the same, and memory
grows by one [F, B] table for each unit and segment.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from checkpoints.errors import BadPrompt, require_choice
from checkpoints.model.plain import takes_model
from checkpoints.results.artifacts import read_artifact, write_artifact
from checkpoints.results.result import Result
from checkpoints.results.text import counted
from circuits.facts.facts import FactSet
from circuits.graph.scores import AttributionGraph

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from transformers import PreTrainedModel

    from circuits.attribution.ablation import Ablation
    from circuits.attribution.backward import Backward, Preset
    from circuits.attribution.edges import Runs
    from circuits.attribution.gqa import KeyValue
    from circuits.attribution.methods import Method, Rule
    from circuits.facts.metrics import Metric, MetricName

By = Literal["segment", "token"]
AUTOMATIC = ("changed", "last", "answer", "rest")


@dataclass(frozen=True, repr=False)
class PositionScores(Result):
    """Edge scores for each segment of the prompts.

    Attributes:
        graphs: one graph for each segment, with the summands of its positions; their metrics are of the whole prompts.
    """

    artifact, title = "position_scores", "Edge scores by position"

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
        meta = {name: value for name, value in graphs[0].meta.items() if name != "segment"}
        return replace(graphs[0], scores=np.sum([graph.scores for graph in graphs], axis=0), meta=meta)

    def to_frame(self) -> "pd.DataFrame":
        """One row an edge and segment, strongest first: edge, segment, writer, reader, score, stderr over the units."""
        import pandas as pd

        frames = [graph.to_frame().assign(segment=name) for name, graph in self.graphs.items()]
        frame = pd.concat(frames)[["edge", "segment", "writer", "reader", "score", "stderr"]]
        return frame.sort_values("score", key=np.abs, ascending=False, ignore_index=True, kind="stable")

    def nodes(self) -> "pd.DataFrame":
        """Mean score of every writer at each segment, the sum over its out-edges: a row a writer."""
        import pandas as pd

        return pd.DataFrame({name: graph.nodes() for name, graph in self.graphs.items()}).rename_axis("node")

    def plot(self, k: int = 20) -> "go.Figure":
        """The k writers of largest score at any segment, by segment."""
        from circuits.attribution.positions_view import positions_figure

        return positions_figure(self, k)

    @property
    def verdict(self) -> str:
        """The segments, and over how many facts."""
        return f"{', '.join(self.segments)}; {counted(len(next(iter(self.graphs.values()))), 'fact')}"

    def save(self, folder: Path | str) -> Path:
        """Write to a result folder, each segment's graph to a folder in it."""
        folder = write_artifact(folder, self.artifact, {"segments": list(self.segments)}, {})
        for place, graph in enumerate(self.graphs.values()):
            graph.save(folder / str(place))
        return folder

    @classmethod
    def load(cls, folder: Path | str) -> "PositionScores":
        """Read what `save` wrote; needs no torch."""
        names = read_artifact(folder, cls.artifact)[0]["segments"]
        return cls({name: AttributionGraph.load(Path(folder) / str(place)) for place, name in enumerate(names)})


@takes_model
def attribute_positions(
    model: "PreTrainedModel",
    facts: FactSet,
    *,
    by: By = "segment",
    method: "Method" = "eap-ig",
    metric: "MetricName | Metric" = "logit difference",
    ig_steps: int = 5,
    rule: "Rule" = "midpoint",
    backward: "Preset | Backward" = "plain",
    ablation: "Ablation" = "corrupt",
    groups: int | None = 8,
    kv: "KeyValue" = "groups",
    batch_size: int = 8,
    chunk_mb: float | None = None,
    progress: bool = False,
) -> PositionScores:
    """Score every edge for each segment of the prompts. Positive = corrupting the edge there raises the metric.

    Args:
        model: a decoder in Hugging Face form.
        facts: N clean/corrupt pairs.
        by: ``segment``: the segments that the facts name; of all other positions those at which the prompts differ
            (``changed``), the last of the prompt (``last``, which no named segment takes), those of the answer's tokens
            that are read (``answer``), and what remains (``rest``; before the first change it scores exactly 0, where
            edges carry what the corrupt run wrote).
            ``token``: each position by itself; all facts must be of one length.
        method: any but ``flow``.
        metric: as for `circuits.attribute`.
        ig_steps: as for `circuits.attribute`.
        rule: as for `circuits.attribute`.
        backward: as for `circuits.attribute`.
        ablation: as for `circuits.attribute`.
        groups: means over this many disjoint groups of facts, from which standard errors come; where facts are
            fewer, or with ``None``, every fact's own.
        kv: as for `circuits.attribute`.
        batch_size: facts in one forward pass. Scores do not depend on it.
        chunk_mb: memory for the contraction's buffers.
        progress: show a bar over the facts.

    Raises:
        UnsupportedArchitecture: the model's parts cannot be told apart exactly.
        CorruptWeights: the scores are not finite.
        BadPrompt: an argument out of range, or facts of different lengths by token.
    """
    from circuits.attribution.edges import Segments, Settings, score_segments

    require_choice("by", by, get_args(By))
    if method == "flow":
        raise BadPrompt(f"method={method!r} averages over positions; use circuits.attribute")
    units = None if groups is None else min(groups, len(facts))
    settings = Settings(
        method, metric, ig_steps, rule, backward, ablation, units, kv, batch_size=batch_size, chunk_mb=chunk_mb
    )
    segments = Segments(*(_by_token(facts) if by == "token" else _by_segment(facts)))
    return PositionScores(score_segments(model, facts, settings, segments, progress=progress))


def _by_token(facts: FactSet) -> "tuple[tuple[str, ...], Runs]":
    """Every position is a segment of its own."""
    lengths = sorted(set(facts.lengths))
    if len(lengths) > 1:
        raise BadPrompt(
            f"the facts have from {lengths[0]} to {lengths[-1]} tokens, so one position is not the same in all; choose "
            "facts of one length, or use by='segment'"
        )
    run = tuple((place, place, place + 1) for place in range(lengths[0]))
    return tuple(str(place) for place in range(lengths[0])), (run,) * len(facts)


def _by_segment(facts: FactSet) -> "tuple[tuple[str, ...], Runs]":
    """Named segments first, then what the other positions are."""
    named = [dict(spans) for spans in facts.segments] or [{} for _ in range(len(facts))]
    if clash := {name for spans in named for name in spans} & set(AUTOMATIC):
        raise BadPrompt(f"segments must not be named {', '.join(sorted(clash))}; those names are given by themselves")
    names = (*dict.fromkeys(name for spans in named for name in spans), *AUTOMATIC)
    kinds = [_kinds(facts, index, spans) for index, spans in enumerate(named)]
    rows = [[(names.index(kind), start, stop) for kind, start, stop in _stretches(of)] for of in kinds]
    used = sorted({place for row in rows for place, _, _ in row})
    runs = tuple(tuple((used.index(place), start, stop) for place, start, stop in row) for row in rows)
    return tuple(names[place] for place in used), runs


def _kinds(facts: FactSet, index: int, spans: Mapping[str, tuple[int, int]]) -> list[str]:
    """Which segment each position of a fact's prompts falls in; of its answer's tokens, all ``answer``."""
    clean, corrupt = facts.clean[index], facts.corrupt[index]
    kinds = ["changed" if a != b else "rest" for a, b in zip(clean, corrupt, strict=True)]
    kinds[-1] = "last"
    for name, (start, stop) in spans.items():
        if taken := set(kinds[start:stop]) & set(spans):
            raise BadPrompt(f"fact {index}: the segments {name!r} and {taken.pop()!r} overlap")
        kinds[start:stop] = [name if kind != "last" else "last" for kind in kinds[start:stop]]
    return kinds + ["answer"] * (facts.lengths[index] - len(clean))


def _stretches(kinds: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Neighbours of one kind, with their first position and the one after the last."""
    start = 0
    for kind, members in groupby(kinds):
        stop = start + len(list(members))
        yield kind, start, stop
        start = stop
