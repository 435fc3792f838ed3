"""What each head does for a fact: where in the prompt it reads what it writes towards the answer.

A head's direct contribution to the answer's logit is split by the token it attends to: attention weight times value,
through the output projection and the final norm at its own scale, onto the answer's unembedding less the mean of all
(so that a shift of all logits counts for nothing). Summed over the subject's tokens and over the relation's, the
ratio r of the two makes a head a **mover** (|r| > 10: it carries the subject over), a **relation** head (|r| < 0.1)
or a **mixture** (Ou et al. 2025, arXiv 2502.11196; there the already mixed z was weighted in place of the values, and
the whole vocabulary summed in place of the answer). Other roles come from scores that say it of a head by themselves:
previous-token, induction, retrieval.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt
from checkpoints.results.result import ROWS, Result
from checkpoints.results.text import counted
from checkpoints.stats.bootstrap import resampling
from checkpoints.stats.units import FEWEST, Floats
from circuits.graph.circuit import Circuit

if TYPE_CHECKING:
    import pandas as pd

MOVER, RELATION = 10.0, 0.1
CERTAIN = 0.95
THRESHOLDS: Mapping[str, float] = {"previous-token": 0.5, "induction": 0.5, "retrieval": 0.1}
RESAMPLES = 500


@dataclass(frozen=True, repr=False)
class HeadRoles(Result):
    """Where every head reads what it writes towards the answer, and what else it is known for.

    N facts, L layers, H query heads; heads are named ``a{layer}.h{head}``.

    Attributes:
        subject: [N, L, H] contribution to the answer's logit read from the subject's tokens, in logits before any
            scaling or cap of them; positive = towards the answer. NaN = not applicable: a layer without heads.
        relation: [N, L, H] the same from the other tokens, the beginning-of-sequence token left out.
        scores: role -> [n, L, H] scores of n prompts that say the role by themselves.
        thresholds: role -> the mean score above which a head has it.
        meta: prompt hash.
    """

    artifact, title = "head_roles", "Roles of heads"
    stored_as: ClassVar[Mapping[str, str]] = {"scores": "score"}
    shapes: ClassVar[Mapping[str, str]] = {"subject": "N L H", "relation": "N L H"}

    subject: Floats
    relation: Floats
    scores: Mapping[str, Floats] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def _flaws(self) -> Iterator[str]:
        if self.scores.keys() != self.thresholds.keys():
            yield "its roles are not those that it has thresholds for"
        for role, values in self.scores.items():
            if values.shape[1:] != self.subject.shape[1:]:
                yield f"{role} is of {values.shape[1:]} heads, not {self.subject.shape[1:]}"

    def __len__(self) -> int:
        return len(self.subject)

    @property
    def heads(self) -> tuple[str, ...]:
        """Names, layer before head."""
        _, layers, heads = self.subject.shape
        return tuple(f"a{layer}.h{head}" for layer in range(layers) for head in range(heads))

    @property
    def ratio(self) -> Floats:
        """[L, H] mean contribution from the subject over that from the relation, signed."""
        return _ratio(self.subject.mean(0), self.relation.mean(0))

    def with_scores(self, role: str, scores: Floats, *, threshold: float | None = None) -> "HeadRoles":
        """The same with one more role, given by scores.

        Args:
            role: its name; ``previous-token``, ``induction`` and ``retrieval`` have a threshold of their own.
            scores: [n, L, H] of n prompts, or [L, H], of which no certainty is known.
            threshold: mean score above which a head has the role.

        Raises:
            BadPrompt: scores of other heads, or a new role without a threshold.
        """
        values = np.asarray(scores, dtype=float)
        values = values[None] if values.ndim == 2 else values
        if values.shape[1:] != self.subject.shape[1:]:
            raise BadPrompt(
                f"scores of {role} are of {values.shape[1:]} heads, the roles of {self.subject.shape[1:]} (layer, head)"
            )
        level = THRESHOLDS.get(role) if threshold is None else threshold
        if level is None:
            raise BadPrompt(f"{role!r} has no threshold of its own; pass threshold=; known: {', '.join(THRESHOLDS)}")
        return replace(self, scores={**self.scores, role: values}, thresholds={**self.thresholds, role: float(level)})

    def certainty(self, *, seed: int = 0) -> dict[str, Floats]:
        """Role -> [L, H] share of resamples of the facts (or of a score's prompts) in which the head has the role.

        NaN = not applicable: a score that could not be taken of that head, or fewer than three facts (or prompts).
        """
        subject, relation = (_resampled(values, seed) for values in (self.subject, self.relation))
        ratio = np.abs(_ratio(subject, relation))
        known = ~np.isnan(ratio)
        found = {
            "mover": (ratio > MOVER) & known,
            "relation": (ratio < RELATION) & known,
            "mixture": (ratio <= MOVER) & (ratio >= RELATION) & known,
        }
        for role, values in self.scores.items():
            found[role] = _resampled(values, seed) > self.thresholds[role]
        shares = {role: np.asarray(has.mean(0)) for role, has in found.items()}
        for role, values in self.scores.items():
            shares[role][np.isnan(values).any(0)] = np.nan
        few = {role for role in shares if len(self.scores.get(role, self.subject)) < FEWEST}
        return {role: np.full_like(share, np.nan) if role in few else share for role, share in shares.items()}

    def of(self, circuit: Circuit) -> "dict[str, tuple[str, ...]]":
        """Head of the circuit -> its roles: those it has in at least 95 % of the resamples."""
        certain = self.certainty()
        inside = set(circuit.nodes)
        names = [name for name in self.heads if name in inside]
        place = {name: divmod(i, self.subject.shape[2]) for i, name in enumerate(self.heads)}
        return {name: tuple(r for r, share in certain.items() if share[place[name]] >= CERTAIN) for name in names}

    def to_frame(self, circuit: Circuit | None = None) -> "pd.DataFrame":
        """One row a head: head, layer, from_subject, from_relation, ratio, each role's certainty, in_circuit.

        ``from_subject`` and ``from_relation`` are mean contributions to the answer's logit; the column of a role
        (``relation`` is one) is the share of resamples in which the head has it.

        Args:
            circuit: fills ``in_circuit``; the published roles are those of circuit heads only.
        """
        import pandas as pd

        layers, heads = self.subject.shape[1:]
        frame: dict[str, Any] = {"head": self.heads, "layer": np.repeat(np.arange(layers), heads)}
        frame |= {"from_subject": self.subject.mean(0).ravel(), "from_relation": self.relation.mean(0).ravel()}
        frame |= {"ratio": self.ratio.ravel()}
        frame |= {role: share.ravel() for role, share in self.certainty().items()}
        if circuit is not None:
            inside = set(circuit.nodes)
            frame["in_circuit"] = [name in inside for name in self.heads]
        return pd.DataFrame(frame)

    def only(self, facts: NDArray[np.integer]) -> "HeadRoles":
        """The same over some of the facts, by their positions [M]."""
        return replace(self, subject=self.subject[facts], relation=self.relation[facts])

    @property
    def verdict(self) -> str:
        """Over how many facts; how to read the table."""
        return f"over {counted(len(self), 'fact')}; a role's column is its share of resamples"

    def _table(self) -> str:
        frame = self.to_frame().sort_values("from_subject", key=np.abs, ascending=False).head(ROWS)
        return str(frame.to_html(index=False, border=0, float_format=lambda value: f"{value:.3g}"))


@dataclass(frozen=True, slots=True)
class RoleChange:
    """One head whose role is certain on both sides and not the same.

    Attributes:
        head: its name.
        role: which role.
        gained: whether B has it and A has not.
        before, after: share of resamples with the role, at A and at B, times that in which the head is in the circuit.
        moved: whether only entering or leaving the circuit makes the change: by itself the head shows the role alike.
    """

    head: str
    role: str
    gained: bool
    before: float
    after: float
    moved: bool = False


def role_changes(
    a: HeadRoles,
    b: HeadRoles,
    *,
    circuits: tuple[Circuit, Circuit],
    membership: tuple[Mapping[str, float], Mapping[str, float]] | None = None,
) -> tuple[RoleChange, ...]:
    """Roles gained and lost between two checkpoints, by head of the circuits.

    A head has a role where it is in that side's circuit and shows it in at least 95 % of the resamples, and has it not
    where it is outside or shows it in at most 5 %; between the two nothing is claimed. A circuit is a cut of ranks, so
    that a head may be inside by chance: give ``membership`` for claims that hold on other facts.

    Args:
        a: roles at A.
        b: roles at B, over the same facts.
        circuits: the circuits of A and of B.
        membership: at A and B, head -> share of resamples of the facts in whose circuit it is
            (`circuits.graph.membership`); by default that of the two circuits, 1 or 0.
    """
    certain = a.certainty(), b.certainty()
    inside = membership or tuple(dict.fromkeys(circuit.nodes, 1.0) for circuit in circuits)
    changes = []
    for role in [role for role in certain[0] if role in certain[1]]:
        for index, head in enumerate(a.heads):
            place = divmod(index, a.subject.shape[2])
            shown = [float(c[role][place]) for c in certain]
            shares = [share * nodes.get(head, 0.0) for share, nodes in zip(shown, inside, strict=True)]
            if _differ(shares):
                gained = shares[1] > shares[0]
                moved = not (_differ(shown) and gained is (shown[1] > shown[0]))
                changes.append(RoleChange(head, role, gained, before=shares[0], after=shares[1], moved=moved))
    return tuple(changes)


def _differ(shares: Sequence[float]) -> bool:
    return max(shares) >= CERTAIN and min(shares) <= 1 - CERTAIN


def changes_sentence(changes: Sequence[RoleChange]) -> str:
    """Which roles came and went, in one sentence."""
    told = []
    ways = {
        (True, False): "gained",
        (True, True): "gained by entering the circuit",
        (False, False): "lost",
        (False, True): "lost by leaving the circuit",
    }
    for way, word in ways.items():
        by_role: dict[str, list[str]] = {}
        for change in changes:
            if (change.gained, change.moved) == way:
                by_role.setdefault(change.role, []).append(change.head)
        for role, names in by_role.items():
            shown = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
            told.append(f"{len(names)} {role} {'head' if len(names) == 1 else 'heads'} {word} ({shown})")
    return f"Roles in the circuits: {'; '.join(told)}." if told else "No head of the circuits gained or lost a role."


def _ratio(subject: Floats, relation: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(subject / relation)


def _resampled(values: Floats, seed: int) -> Floats:
    """[resamples, L, H] means over each draw of the first axis; NaN where any value is."""
    weights = resampling(len(values), draws=RESAMPLES, seed=seed)
    return np.asarray(np.tensordot(weights / len(values), values, 1))
