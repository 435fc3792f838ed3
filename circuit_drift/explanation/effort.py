"""How much an explanation may cost."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is spent on an explanation.

    Attributes:
        prompts: at most so many, drawn by a fixed seed.
        steps: gradients of one rule over the whole line; ``None`` = as many as completeness takes.
        tolerance: residual to be reached.
        patching: whether components are put back for proof.
    """

    prompts: int = 12
    steps: int | None = None
    tolerance: float = 0.01
    patching: bool = True


DEFAULT_EFFORT = Effort()
