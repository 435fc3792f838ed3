"""What is attributed: numbers [b] of the logits at the last prompt token, differentiated summed over the batch."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from checkpoints.errors import BadPrompt
from circuits.trace import Batch, logit_difference

MetricName = Literal["logit difference", "log probability", "kl"]
Metric = Callable[[Tensor, Batch, Tensor], Tensor]


def log_probability(logits: Tensor, batch: Batch, _clean: Tensor) -> Tensor:
    """[b] natural log of the answer's probability."""
    return torch.log_softmax(logits.float() if logits.dtype.itemsize < 4 else logits, -1).gather(
        1, batch.answer[:, None]
    )[:, 0]


def divergence(logits: Tensor, _batch: Batch, clean: Tensor) -> Tensor:
    """[b] KL(clean || this run) over the whole vocabulary, in nats."""
    precision = logits.dtype if logits.dtype.itemsize >= 4 else torch.float32
    now, then = (torch.log_softmax(x.to(precision), -1) for x in (logits, clean))
    return (then.exp() * (then - now)).sum(-1)


def find_metric(metric: MetricName | Metric) -> tuple[str, Metric]:
    """The name and the function of a metric.

    Args:
        metric: a name, or a function of logits [b, vocab], batch and clean logits [b, vocab] to [b].

    Raises:
        BadPrompt: an unknown name.
    """
    known: dict[str, Metric] = {
        "logit difference": lambda logits, batch, _clean: logit_difference(logits, batch),
        "log probability": log_probability,
        "kl": divergence,
    }
    if callable(metric):
        return str(getattr(metric, "__name__", "a function")), metric
    if metric not in known:
        raise BadPrompt(f"unknown metric {metric!r}; metrics: {', '.join(get_args(MetricName))}, or a function")
    return metric, known[metric]
