"""Scores from what the toolkit itself measures: ranks and probabilities of answers, circuits, a lab series."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt, CheckpointMismatch
from checkpoints.files.reading import read_frame
from circuit_drift.knowledge.scores import UnitScores

if TYPE_CHECKING:
    import pandas as pd

    import circuits

_NEEDED = ("fact", "step", "class", "relation", "batch", "rank", "prob", "held_out_paraphrase")

AnswerScore = Literal["rank", "probability"]


def rank_scores(ranks: NDArray[np.integer], *, top: int = 1) -> NDArray[np.float64]:
    """1 where the answer is among the ``top`` tokens, else 0 (Hit@top).

    Args:
        ranks: tokens ranked above the answer; 0 = it is the top token.
        top: how many count.
    """
    return np.asarray(ranks < top, dtype=np.float64)


def graph_scores(graphs: Sequence[tuple[int, "circuits.AttributionGraph"]], *, top: int = 1) -> UnitScores:
    """Scores of the facts of a circuit run, by the rank of each fact's answer in the clean forward pass.

    Args:
        graphs: (step, graph) in order, over the same facts.
        top: Hit@top.

    Raises:
        CheckpointMismatch: the graphs are over different facts.
        BadPrompt: there are none.
    """
    if not graphs:
        raise BadPrompt("no graph was given; measure circuits of at least one checkpoint")
    _, first = graphs[0]
    for step, graph in graphs:
        if graph.labels != first.labels:
            raise CheckpointMismatch(
                f"step {step} was scored on other facts than step {graphs[0][0]}: use one fact set"
            )
    ranks = np.stack([graph.answer_rank for _, graph in graphs], axis=1)
    steps = tuple(step for step, _ in graphs)
    units = tuple(f"fact {index}" for index in range(len(first)))
    return UnitScores(units, steps, rank_scores(ranks, top=top)[:, :, None], _labels(first.labels), f"hit@{top}")


def _labels(facts: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """The labels that every fact has."""
    shared = [name for name in facts[0] if all(name in fact for fact in facts)]
    return {name: tuple(str(fact[name]) for fact in facts) for name in shared}


def series_scores(
    folder: Path | str, *, score: AnswerScore = "rank", top: int = 1, held_out: bool = False
) -> UnitScores:
    """Scores of a lab series' facts, from its ``fact_recall.csv``.

    A fact's probes are its training paraphrase and the paraphrase held out of its documents. By default the
    training paraphrase alone counts: what the documents said.

    Args:
        folder: the series.
        score: ``rank`` for Hit@top, ``probability`` for the answer's probability.
        top: how many tokens count as recalled.
        held_out: add the held-out paraphrase as a second probe, for facts whose documents leave it out.

    Raises:
        BadPrompt: the series has no such table.
    """
    import pandas as pd

    from circuit_drift.knowledge.scores import scores_from_frame

    path = Path(folder) / "fact_recall.csv"
    frame = read_frame(path, "the recall of facts")
    missing = [name for name in _NEEDED if name not in frame]
    if missing:
        raise BadPrompt(f"{path} lacks the columns {', '.join(missing)}: it is not the recall of the shipped series")
    parts = [_probe(frame, "trained", "", score, top)]
    if held_out:
        parts.append(_probe(frame[frame["held_out_paraphrase"] == 1], "held out", "held_out_", score, top))
    table = pd.concat(parts, ignore_index=True)
    read = scores_from_frame(table, unit="fact", probe="probe", labels=("class", "relation", "batch"))
    name = f"hit@{top}" if score == "rank" else "probability"
    return UnitScores(read.units, read.steps, read.probes, read.labels, name)


def _probe(frame: "pd.DataFrame", name: str, prefix: str, score: AnswerScore, top: int) -> "pd.DataFrame":
    values = frame[f"{prefix}prob"] if score == "probability" else (frame[f"{prefix}rank"] < top).astype(float)
    about = frame[["fact", "step", "class", "relation", "batch"]]
    return about.assign(probe=name, score=values)
