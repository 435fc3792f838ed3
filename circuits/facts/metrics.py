"""What is attributed: one number a fact, from the logits where its answer is produced, summed over the answer's tokens.

The metric is differentiated summed over the batch, so scores do not depend on how facts were batched.
"""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from checkpoints.errors import BadPrompt, require_choice
from circuits.facts.batch import Batch, logit_difference
from circuits.facts.facts import FactSet

MetricName = Literal["logit difference", "log probability", "kl"]
Metric = Callable[[Tensor, Batch, Tensor], Tensor]


def log_probability(logits: Tensor, batch: Batch, _clean: Tensor) -> Tensor:
    """[n] natural log of the probability of each answer token after the right ones before it.

    Their sum is the log-probability of the whole answer.
    """
    return torch.log_softmax(_precise(logits), -1).gather(1, batch.answer[:, None])[:, 0]


def divergence(logits: Tensor, _batch: Batch, clean: Tensor) -> Tensor:
    """[n] KL(clean || this run) over the whole vocabulary, in nats, where each answer token is produced."""
    now, then = (torch.log_softmax(_precise(x), -1) for x in (logits, clean))
    return (then.exp() * (then - now)).sum(-1)


def find_metric(metric: MetricName | Metric, facts: FactSet) -> tuple[str, Metric]:
    """The name of a metric, and the function of logits [n, vocab], batch and clean logits [n, vocab] to [b].

    Args:
        metric: ``logit difference``: logit(answer) - logit(wrong), summed over the answer's tokens, both read after the
            answer's own earlier tokens; ``log probability`` of the whole answer; ``kl`` from the clean distributions,
            summed over the answer's tokens; or a function of logits [n, vocab], `Batch` and clean logits [n, vocab] to
            [n], one value for each answer token (n = b for answers of one token), which is summed likewise.
        facts: what it is to be taken of.

    Raises:
        BadPrompt: an unknown name, or a logit difference between answers of different numbers of tokens.
    """
    known: dict[str, Metric] = {"log probability": log_probability, "kl": divergence}
    if callable(metric):
        return str(getattr(metric, "__name__", "a function")), _summed(metric)
    if metric == "logit difference":
        _require_equal_lengths(facts)
        return metric, lambda logits, batch, _clean: logit_difference(logits, batch)
    require_choice("metric", metric, (*get_args(MetricName), "a function"))
    return metric, _summed(known[metric])


def require_gradient(metric: str, method: str) -> None:
    """Refuse a metric that has no gradient where a method takes it.

    Raises:
        BadPrompt: KL at the clean run.
    """
    if metric == "kl" and method == "eap":
        raise BadPrompt("KL has no gradient at the clean run, so every EAP score of it is zero; use method='eap-ig'")


def _summed(metric: Metric) -> Metric:
    def total(logits: Tensor, batch: Batch, clean: Tensor) -> Tensor:
        values = metric(logits, batch, clean)
        if values.shape != batch.answer.shape:
            raise BadPrompt(
                f"the metric returned a tensor of {tuple(values.shape)}; it must return one value for each answer "
                f"token, {tuple(batch.answer.shape)}"
            )
        return batch.per_fact(values)

    return total


def _require_equal_lengths(facts: FactSet) -> None:
    unequal = [i for i, (a, b) in enumerate(zip(facts.answer, facts.wrong, strict=True)) if len(a) != len(b)]
    if unequal:
        i = unequal[0]
        raise BadPrompt(
            f"fact {i}: the answer has {len(facts.answer[i])} tokens and the wrong answer {len(facts.wrong[i])}, and "
            f"{len(unequal)} of {len(facts)} facts are such; a logit difference needs equal numbers: use "
            "metric='log probability'"
        )


def _precise(logits: Tensor) -> Tensor:
    return logits if logits.dtype.itemsize >= 4 else logits.float()
