"""What heads read on the prompts of facts, and write from it: what the roles keep of every fact and head."""

from collections.abc import Sequence

import numpy as np

from checkpoints.stats.ttests import mean_interval
from circuit_drift.page.tables import true_minus
from circuit_drift.record.record import Point, RunRecord
from circuits.roles.roles import HeadRoles

STRONGEST = 4
"""Heads that the card of a fact names."""


def read_by_heads(run: RunRecord) -> dict[str, list[str]]:
    """Head -> a sentence for the first and the last checkpoint with roles; logits, positive = towards the answer."""
    found = dict[str, list[str]]()
    for point, roles in _ends([(point, point.roles) for point in run if point.roles is not None]):
        parts = [_with_interval(values) for values in (roles.subject, roles.relation)]
        for place, head in enumerate(roles.heads):
            subject, relation = (part[place] for part in parts)
            if subject and relation:
                found.setdefault(head, []).append(
                    f"step {point.label}: writes {subject} logits towards the answer from the subject's tokens, "
                    f"{relation} from the other tokens (mean of {len(roles)} facts)"
                )
    return found


def read_on_facts(points: Sequence[Point]) -> list[list[str]]:
    """For each fact of the circuits the heads that write most towards or against its answer.

    Told of the last of the points with roles over these very facts; empty where there is none.
    """
    for point in reversed(points):
        roles, graph = point.roles, point.circuit
        if roles is not None and graph is not None and roles.meta.get("prompts") == graph.meta.get("prompts"):
            return [_of_fact(point, roles, fact) for fact in range(len(roles))]
    return []


def _of_fact(point: Point, roles: HeadRoles, fact: int) -> list[str]:
    subject, relation = (values[fact].ravel() for values in (roles.subject, roles.relation))
    order = np.argsort(-np.abs(subject + relation), kind="stable")  # what does not apply comes last
    order = order[~np.isnan((subject + relation)[order])][:STRONGEST]
    return [
        true_minus(
            f"step {point.label}: {roles.heads[head]} writes {subject[head]:+.2f} logits from the subject's tokens, "
            f"{relation[head]:+.2f} from the other tokens"
        )
        for head in order
    ]


def _ends(found: Sequence[tuple[Point, HeadRoles | None]]) -> list[tuple[Point, HeadRoles]]:
    there = [(point, roles) for point, roles in found if roles is not None]
    return there if len(there) < 2 else [there[0], there[-1]]


def _with_interval(values: np.ndarray) -> list[str]:
    """Of [N, L, H] the mean over the facts and its 95 % interval, head by head; "" where it does not apply."""
    flat = values.reshape(len(values), -1)
    rows = zip(flat.mean(0), *mean_interval(flat), strict=True)
    return ["" if np.isnan(mean) else true_minus(f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]") for mean, low, high in rows]
