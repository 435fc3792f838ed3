"""Logits that are numbers: a score of NaN or infinite ones would read as a wrong answer, or as no change at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from checkpoints.errors import CorruptWeights

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def finite(logits: "Tensor") -> "Tensor":
    """The same logits, if all of them are finite.

    Raises:
        CorruptWeights: some are NaN or infinite.
    """
    low, high = logits.detach().aminmax()
    if not bool(low.isfinite() & high.isfinite()):
        bad = int((~logits.isfinite()).sum())
        dtype = str(logits.dtype).removeprefix("torch.")
        raise CorruptWeights(
            f"{bad:,} of the model's {logits.numel():,} logits ({dtype}) are not finite, so nothing can be "
            "scored; try dtype float32 or bfloat16, and check the weights"
        )
    return logits


@contextmanager
def finite_logits(model: "PreTrainedModel") -> Iterator[None]:
    """Hold every pass of a model to `finite` while the block runs, for measures that others compute."""

    def check(_model: Any, _inputs: Any, output: Any) -> None:
        finite(output.logits)

    handle = model.register_forward_hook(check)
    try:
        yield
    finally:
        handle.remove()
