"""Points of a run: a checkpoint with its stored results, as a sweep ended with it or as a record tells of it."""

import logging
from collections.abc import Collection, Mapping
from typing import Any

from checkpoints.errors import StoreError
from circuit_drift.measures.registry import find
from circuit_drift.measures.stored import stored_result
from circuit_drift.record.record import Point
from circuit_drift.store.journal import Outcome
from circuit_drift.store.store import Store
from circuit_drift.sweep.workers.tasks import Sweep

logger = logging.getLogger(__name__)


def stored_point(
    entry: Mapping[str, Any], store: Store, measures: Collection[str] | None
) -> tuple[Point, dict[str, str]]:
    """A point of a record with the results that are wanted and can be read, and why others cannot."""
    wanted = {name: key for name, key in entry["keys"].items() if measures is None or name in measures}
    results, lost = results_of(wanted, store)
    keys = {name: key for name, key in entry["keys"].items() if name not in lost}
    about = {**entry, "keys": keys, "failures": {**entry["failures"], **lost}}
    return Point(**about, results=results), lost


def point_of(sweep: Sweep, outcome: Outcome) -> Point:
    """What became of a checkpoint of a sweep; warns of what failed."""
    checkpoint = sweep.checkpoints[outcome.index]
    warn_of_failures(sweep, outcome)
    results, lost = results_of(outcome.keys, sweep.store)
    return Point(
        name=checkpoint.name,
        step=checkpoint.step,
        tokens=checkpoint.tokens,
        stage=checkpoint.stage,
        branch=checkpoint.branch,
        keys={name: key for name, key in outcome.keys.items() if name in results},
        failures={**outcome.failures, **lost},
        results=results,
        weights=outcome.weights,
    )


def warn_of_failures(sweep: Sweep, outcome: Outcome) -> None:
    """One line for each reason why measures of a checkpoint failed."""
    for reason in dict.fromkeys(outcome.failures.values()):
        names = [name for name, why in outcome.failures.items() if why == reason]
        logger.warning("%s of %s: %s", ", ".join(names), sweep.checkpoints[outcome.index].name, reason)


def results_of(keys: Mapping[str, str], store: Store) -> tuple[dict[str, Any], dict[str, str]]:
    """The stored results of one checkpoint, and why others cannot be read."""
    results: dict[str, Any] = {}
    lost: dict[str, str] = {}
    for name, key in keys.items():
        kind = find(name)
        if kind is None:
            lost[name] = f"no package here has the measure {name}; install the one that has, or register its class"
            continue
        try:
            results[name] = stored_result(store, kind, key)
        except StoreError as error:
            lost[name] = str(error)
    return results, lost


def bytes_of(store: Store, point: Point, before: Collection[tuple[str, str]]) -> int:
    """Size of the results of a point that were not there before."""
    folders = [store.folder(*pair) for pair in point.keys.items() if pair not in before]
    return sum(path.stat().st_size for folder in folders for path in folder.glob("*"))
