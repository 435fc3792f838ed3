"""Sentences that the numbers of a ledger support."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from circuit_drift.knowledge.ledger import Ledger


def findings(book: "Ledger") -> tuple[str, ...]:
    """What happened to the knowledge of a run, a sentence each."""
    out, steps = book.outcome, book.scores.steps
    n, best = len(book.scores.units), int(np.argmax(book.known.sum(axis=0)))
    said = [
        f"known (mean {book.scores.name} >= {book.threshold:g}): {out['known_first']} of {n} at {steps[0]}, "
        f"{out['best']} at best ({steps[best]}), {out['known_last']} at {steps[-1]}",
        f"{out['newly_learned']} were newly learned; {out['newly_learned_held']} of those are held at {steps[-1]}, "
        f"{out['consolidated']} units are consolidated",
        f"of the {out['known_first']} known at {steps[0]}, {out['kept']} are known at {steps[-1]}",
        f"{out['acquisitions']} acquisitions ({out['relearned']} of them relearned) and {out['losses']} losses",
    ]
    return (*said, _noise(book))


def _noise(book: "Ledger") -> str:
    if book.resampled is None:
        return "one score per unit and step: how much of this is noise of the probes cannot be said"
    noisy, total = int(book.noise.sum()), int(book.moves.acquired.sum())
    return f"{noisy} of {total} acquisitions are noise: fewer than {book.support:.0%} of probe resamples repeat them"
