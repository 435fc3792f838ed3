"""A claim of a paper, held against a run of one's own."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Claim:
    """One row of a paper's table of claims.

    Attributes:
        words: what is claimed.
        published: the paper's figures.
        here: ours.
        holds: whether ours agree; None where they leave it open.
        rule: when ours count as agreeing.
    """

    words: str
    published: str
    here: str
    holds: bool | None
    rule: str = ""

    @property
    def answer(self) -> str:
        """Whether ours agree: ``yes``, ``no`` or ``undecided``."""
        return {True: "yes", False: "no", None: "undecided"}[self.holds]
