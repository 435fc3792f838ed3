"""A store with a run of many checkpoints whose results are drawn, not measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import heads
from circuit_drift.store.store import Store
from circuits.graph.scores import AttributionGraph
from circuits.graph.shape import GraphShape

PYTHIA_14B = GraphShape(24, 16, 16, parallel=True)
SMOLLM2 = GraphShape(30, 9, 3)
OLMO2_7B = GraphShape(32, 32, 32)


@dataclass(frozen=True, slots=True)
class Series:
    """What is synthesised.

    Attributes:
        shape: of the model.
        checkpoints: how many; the circuit changes at a third and at two thirds of them.
        facts: how many; they are recalled from a third of the checkpoints on.
        prompts: needles that heads are scored on.
        circuits: whether circuits are stored beside the heads.
        distinct: different circuits of each phase, which its checkpoints have in turn; None = each has its own.
    """

    shape: GraphShape
    checkpoints: int
    facts: int = 37
    prompts: int = 40
    circuits: bool = True
    distinct: int | None = None


def synthesise(series: Series, folder: Path) -> Store:
    """Write the store of a series: heads, circuits and the record of one run."""
    store = Store.open(folder)
    draw = np.random.default_rng(0)
    edges = int(series.shape.mask.sum())
    patterns = [draw.standard_normal(edges, dtype=np.float32) for _ in range(3)]
    points = []
    for place in range(series.checkpoints):
        phase = min(2, 3 * place // series.checkpoints)
        keys = {"heads": f"{place:024x}"}
        _scores(series, place, draw).save(store.folder("heads", keys["heads"]))
        if series.circuits:
            twin = place if series.distinct is None else place % series.distinct
            keys["circuit"] = f"{phase:04x}{twin:020x}"
            folder = store.folder("circuit", keys["circuit"])
            if not folder.exists():
                noise = draw.standard_normal((series.facts, edges), dtype=np.float32)
                _graph(series, patterns[phase] + noise, known=phase > 0).save(folder)
        points.append(
            {
                "name": f"step{1000 * place}", "step": 1000 * place, "tokens": None, "stage": None, "branch": None,
                "failures": {}, "keys": keys, "weights": f"{place:064x}",
            }
        )  # fmt: skip
    store.write_run("synthetic", _record(points))
    return store


def _record(points: Sequence[dict[str, object]]) -> dict[str, object]:
    names = [str(point["step"]) for point in points]
    return {
        "name": "synthetic",
        "origins": {"needles": "synthetic needles", "facts": "synthetic facts"},
        "log": None,
        "audit": None,
        "question": {"dtype": "float32", "attention": "auto", "measures": {}},
        "parents": {name: names[place - 1 : place] if place else [] for place, name in enumerate(names)},
        "points": list(points),
    }


def _graph(series: Series, scores: np.ndarray, *, known: bool) -> AttributionGraph:
    units = np.arange(series.facts)
    return AttributionGraph(
        scores=scores,
        shape=series.shape,
        clean_metric=np.full(len(units), 2.0),
        corrupt_metric=np.full(len(units), -2.0),
        answer_rank=np.zeros(len(units), dtype=int) if known else units + 1,
        group=units,
        labels=tuple({} for _ in units),
        meta={"method": "eap-ig", "prompts": "synthetic", "refused": []},
    )


def _scores(series: Series, place: int, draw: np.random.Generator) -> heads.Scores:
    size = series.prompts, series.shape.n_layers, series.shape.n_heads
    grown = min(1.0, 2 * place / series.checkpoints)
    leading = np.zeros(size[1:], dtype=np.float32)
    leading[size[1] // 2, :2] = grown
    copy = np.clip(leading + draw.normal(0, 0.02, size), 0, 1).astype(np.float32)
    known = np.arange(series.prompts) < grown * series.prompts
    return heads.Scores(
        detectors={"copy": copy, "needle_mass": copy / 2},
        kv_heads=series.shape.n_kv_heads,
        meta={"prompts": "synthetic", "length": 256, "chance": 0.004, "refused": []},
        nll=np.full((series.prompts, 1), 4.0 - 3.0 * grown, dtype=np.float32),
        correct=known,
        accepted=known,
        depth=np.full(series.prompts, 0.5),
        needle=np.arange(series.prompts),
    )
