"""Results written by hand, without a model: what a reader meets is then known in advance, to the last digit.

Two facts, or two prompts, make every resampling exact: a draw of two holds one twice, the other twice, or both, so an
interval runs from the smaller to the larger value; and a split into halves is always one against the other. Ten of
them that change alike make every test exact: the sign test's 2^(1 - 10) for heads, 2 / 2^9 for whole graphs.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import circuits
import heads
from checkpoints import open_series
from checkpoints.audit import AuditReport, Fault
from circuit_drift.api.runs import Run
from circuit_drift.measures.registry import BUILT_IN, build_measures
from circuit_drift.measures.stored import store_key
from circuit_drift.prompts import prompts_for
from circuit_drift.record.record import Point
from circuit_drift.store.store import Store
from circuits.graph.circuit import Circuit
from circuits.graph.shape import GraphShape
from circuits.intervention.faithfulness import FaithfulnessCurve
from circuits.intervention.transfer import Transfer
from circuits.roles.roles import HeadRoles

SHAPE = GraphShape(2, 2, 2)
"""46 edges, of which circuits keep 20: writers input, a0.h0, a0.h1, m0, a1.h0, a1.h1, m1."""
EDGES = Circuit(SHAPE, SHAPE.mask).edges
CLEAN, CORRUPT = 3.0, 1.0

LAST = "input->logits"
TRUNK = tuple(edge for edge in EDGES if edge.startswith("input->"))
"""The 15 edges out of the input."""
WIRING_A = (*TRUNK, "a0.h0->logits", "a0.h1->logits", "m0->logits", "a1.h0->logits", "a1.h1->logits")
"""20 edges; m1 leads nowhere, so 19 are a circuit: all but input->m1."""
WIRING_B = (*TRUNK, "a0.h0->logits", "a0.h1->logits", "m0->logits", "a1.h0->logits", "m1->logits")
"""a1.h1's edge gives way to m1's: 17 are a circuit, all but the three into a1.h1."""


def provenance(name: str = "step0", **other: object) -> dict[str, object]:
    """What a measured result says it was computed from."""
    return {
        "checkpoint": name,
        "weights_hash": f"{name}-weights-of-sixty-four-letters",
        "tokenizer_hash": "words",
        "parameters": {"version": 1},
        "dtype": "float32",
        "device": "cpu",
        "attention": "sdpa",
        "code_version": "0.1",
        **other,
    }


def retrieval(
    copy: Mapping[tuple[int, int], float | Sequence[float]] | None = None,
    *,
    prompts: int = 10,
    accepted: int | Sequence[bool] = 0,
    correct: int | Sequence[bool] = 0,
    nll: float | Sequence[float] = 1.0,
    refused: Sequence[tuple[int, str]] = (),
    name: str = "step0",
    shape: tuple[int, int] = (2, 2),
) -> heads.Scores:
    """Retrieval scores over prompts of a needle each.

    Args:
        copy: (layer, head) -> score on every prompt, or prompt by prompt; 0 elsewhere.
        prompts: how many.
        accepted: how many of them pass the gate, the first ones; or prompt by prompt.
        correct: the same of right answers.
        nll: nats per answer token, on every prompt or prompt by prompt.
        refused: needles that were not asked.
        name: of the checkpoint.
        shape: layers and heads.
    """
    values = np.zeros((prompts, *shape), dtype=np.float32)
    for (layer, head), score in (copy or {}).items():
        values[:, layer, head] = score
    return heads.Scores(
        detectors={"copy": values, "needle_mass": values / 2},
        kv_heads=shape[1],
        meta={
            "prompts": "needles",
            "length": 64,
            "chance": 0.125,
            "refused": list(refused),
            "provenance": provenance(name),
        },
        nll=np.broadcast_to(np.asarray(nll, dtype=np.float32).reshape(-1, 1), (prompts, 1)).copy(),
        correct=_first(correct, prompts),
        accepted=_first(accepted, prompts),
        depth=np.full(prompts, 0.5),
        needle=np.arange(prompts),
    )


def _first(which: int | Sequence[bool], n: int) -> np.ndarray:
    return np.arange(n) < which if isinstance(which, int) else np.array(which, dtype=bool)


def strengths(edges: Iterable[str], *, sign: float = -1.0) -> np.ndarray:
    """[46] scores: the edges named from 2 down in steps of 1/16, the rest between 0 and 1/16, all dyadic."""
    scores = np.arange(1, len(EDGES) + 1) / 1024
    for place, edge in enumerate(edges):
        scores[EDGES.index(edge)] = sign * (2 - place / 16)
    return scores


def graph(
    scores: np.ndarray | Sequence[np.ndarray],
    *,
    facts: int = 10,
    known: int | Sequence[bool] = 0,
    labels: Sequence[Mapping[str, object]] | None = None,
    name: str = "step0",
    **meta: object,
) -> circuits.AttributionGraph:
    """An attribution graph.

    Args:
        scores: [46] of every fact alike, or fact by fact.
        facts: how many, where all are alike.
        known: how many facts are recalled, the first ones; or fact by fact.
        labels: of the facts.
        name: of the checkpoint.
        meta: what the graph says of itself.
    """
    edges = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    edges = np.repeat(edges, facts, axis=0) if len(edges) == 1 else edges
    return on_shape(SHAPE, edges, known=known, labels=labels, name=name, **meta)


def on_shape(
    shape: GraphShape,
    edges: np.ndarray,
    *,
    known: int | Sequence[bool] = 0,
    labels: Sequence[Mapping[str, object]] | None = None,
    name: str = "step0",
    **meta: object,
) -> circuits.AttributionGraph:
    """The same of any model: scores [N, edges of the shape]."""
    table = np.zeros((len(edges), *shape.mask.shape))
    table[:, shape.mask] = edges
    return circuits.AttributionGraph(
        scores=table,
        shape=shape,
        clean_metric=np.full(len(edges), CLEAN),
        corrupt_metric=np.full(len(edges), CORRUPT),
        answer_rank=np.where(_first(known, len(edges)), 0, 3),
        group=np.arange(len(edges)),
        labels=tuple(labels or [{}] * len(edges)),
        meta={"method": "eap-ig", "prompts": "facts", "refused": [], "provenance": provenance(name), **meta},
    )


def faithfulness(*shares: Sequence[float], random: Sequence[float] = (), name: str = "step0") -> object:
    """A curve of circuits of 5, 10, … edges, each given by its share of the metric kept on either of two facts.

    Args:
        shares: a circuit each, smallest first: what it keeps on the first fact and on the second.
        random: what random circuits of each size keep, on both facts.
        name: of the checkpoint.
    """
    kept = np.asarray(shares, dtype=np.float64)
    drawn = np.asarray(random or [0.0] * len(kept))
    span = CLEAN - CORRUPT
    return FaithfulnessCurve(
        shares=tuple(0.1 * (i + 1) for i in range(len(kept))),
        n_edges=np.array([5 * (i + 1) for i in range(len(kept))]),
        metric=CORRUPT + span * kept,
        random_metric=CORRUPT + span * np.tile(drawn[:, None, None], (1, 3, 2)),
        clean_metric=np.full(2, CLEAN),
        corrupt_metric=np.full(2, CORRUPT),
        shape=SHAPE,
        meta={"provenance": provenance(name)},
    )


def roles(**of: str) -> HeadRoles:
    """Roles of the four heads over twenty facts, certain; a head not named is a mixture.

    Args:
        of: head, as ``a0_h1``, -> ``mover`` or ``relation``.
    """
    subject, relation = np.ones((20, 2, 2)), np.ones((20, 2, 2))
    for head, role in of.items():
        layer, place = int(head[1]), int(head[4])
        subject[:, layer, place] = {"mover": 100.0, "relation": 0.01}[role]
    return HeadRoles(subject, relation, meta={"prompts": "facts"})


def transfer(names: Sequence[str], kept: Sequence[Sequence[float]]) -> Transfer:
    """What each circuit keeps in each model, on two facts alike.

    Args:
        names: of the checkpoints.
        kept: [C, M] faithfulness of circuit i in model j.
    """
    size = len(names)
    return Transfer(
        names=tuple(names),
        models=tuple(names),
        metric=np.repeat(CORRUPT + (CLEAN - CORRUPT) * np.asarray(kept, dtype=float)[..., None], 2, axis=-1),
        clean_metric=np.full((size, 2), CLEAN),
        corrupt_metric=np.full((size, 2), CORRUPT),
        n_edges=np.arange(size) + 20,
    )


def point(step: int | None, *, name: str = "", tokens: int | None = None, stage: str | None = None, **other) -> Point:
    """A measured checkpoint; every result it is given has a key."""
    name = name or f"step{step}"
    results = {measure: other[measure] for measure in BUILT_IN if other.get(measure) is not None}
    keys = {measure: f"{measure}-{stage}-{name}" for measure in results}
    others = {key: value for key, value in other.items() if key not in BUILT_IN}
    return Point(name=name, step=step, tokens=tokens, stage=stage, keys=keys, results=results, **others)


def run_of(*points: Point, store: Path = Path("no store"), findings: Sequence[Fault] = (), **other) -> Run:
    """A run of these points, whose audit found nothing unless told."""
    other.setdefault("audit", AuditReport("handmade", tuple(p.place for p in points), tuple(findings), "samples"))
    origins = {"needles": "hand-made needles", "facts": "hand-made facts"}
    return Run("handmade", tuple(points), store, origins, **other)


def write_series(root: Path, steps: Sequence[int]) -> Path:
    """Checkpoints whose one tensor moves along a line, of an architecture that nothing could run."""
    for step in steps:
        folder = root / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"model_type": "handmade"}))
        save_file({"w": np.arange(4, dtype=np.float32).reshape(2, 2) * (step + 1)}, folder / "model.safetensors")
    return root


def keep(series: Path, store: Path, **results: dict[int, object]) -> None:
    """Store results of checkpoints under their own keys, as if they had been measured.

    Args:
        series: folder of the checkpoints.
        store: where to.
        results: measure -> step -> result.
    """
    measures = {measure.name: measure for measure in build_measures(prompts_for(series))}
    for checkpoint in open_series(series):
        for name, by_step in results.items():
            if checkpoint.step in by_step:
                key = store_key(checkpoint, measures[name], "float32")
                by_step[checkpoint.step].save(Store.open(store).folder(name, key))
