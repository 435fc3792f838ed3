"""What is attributed: one number a fact, from the logits where its answer is produced, summed over the answer's tokens.

The metric is differentiated summed over the batch, so scores do not depend on how facts were batched.
"""

import re
from collections.abc import Callable

import torch
from torch import Tensor

from checkpoints.errors import BadPrompt, require_choice
from checkpoints.results.text import counted
from circuits.facts.batch import Batch, answer_rank, logit_difference
from circuits.facts.facts import FactSet

MetricName = str
NAMES = ("logit difference", "log probability", "kl", "rank", "hit@k")
Metric = Callable[[Tensor, Batch, Tensor], Tensor]
HIT = re.compile(r"hit@([1-9]\d*)")


def log_probability(logits: Tensor, batch: Batch, _clean: Tensor) -> Tensor:
    """[n] natural log of the probability of each answer token after the right ones before it.

    Their sum is the log-probability of the whole answer.
    """
    return torch.log_softmax(_precise(logits), -1).gather(1, batch.answer[:, None])[:, 0]


def kl_divergence(logits: Tensor, _batch: Batch, clean: Tensor) -> Tensor:
    """[n] KL(clean || this run) over the whole vocabulary, in nats, where each answer token is produced."""
    now, then = (torch.log_softmax(_precise(x), -1) for x in (logits, clean))
    return (then.exp() * (then - now)).sum(-1)


def rank(logits: Tensor, batch: Batch, _clean: Tensor) -> Tensor:
    """[b] rank of the answer over the whole vocabulary, 1 = the top token; of several tokens the one that fares worst.

    It falls as the answer gets likelier, and has no gradient.
    """
    return (answer_rank(logits, batch) + 1).double()


def hit(k: int) -> Metric:
    """Hit@k (arXiv 2402.14273 and 2601.03858): [b] 1 where the answer is among the k likeliest tokens, else 0."""
    return lambda logits, batch, _clean: (answer_rank(logits, batch) < k).double()


def find_metric(metric: MetricName | Metric, facts: FactSet) -> tuple[str, Metric]:
    """The name of a metric, and the function of logits [n, vocab], batch and clean logits [n, vocab] to [b].

    Args:
        metric: ``logit difference``: logit(answer) - logit(wrong), summed over the answer's tokens, both read after the
            answer's own earlier tokens; ``log probability`` of the whole answer; ``kl`` from the clean distributions,
            summed over the answer's tokens; ``hit@k``, as in ``hit@10``, and ``rank``, which read an intervention and
            have no gradient (`hit`, `rank`); or a function of logits [n, vocab], `Batch` and clean logits [n, vocab] to
            [n], one value for each answer token (n = b for answers of one token), which is summed likewise.
        facts: what it is to be taken of.

    Raises:
        BadPrompt: an unknown name, or a logit difference between answers of different numbers of tokens.
    """
    if callable(metric):
        return str(getattr(metric, "__name__", "a function")), _summed(metric)
    require_metric(metric)
    if metric == "rank":
        return metric, rank
    if (asked := HIT.fullmatch(metric)) is not None:
        return metric, hit(int(asked[1]))
    known: dict[str, Metric] = {"log probability": log_probability, "kl": kl_divergence}
    if metric == "logit difference":
        _require_equal_lengths(facts)
        return metric, lambda logits, batch, _clean: logit_difference(logits, batch)
    return metric, _summed(known[metric])


def require_metric(metric: object) -> None:
    """Refuse what is no metric's name.

    Raises:
        BadPrompt: an unknown name.
    """
    if not isinstance(metric, str) or not HIT.fullmatch(metric):
        require_choice("metric", metric, (*NAMES, "a function"))
    if metric == "hit@k":
        raise BadPrompt("say what k is, as in hit@10")


def require_gradient(metric: str, method: str) -> None:
    """Refuse a metric that has no gradient where a method takes it.

    Raises:
        BadPrompt: a rank or Hit@k, or KL at the clean run.
    """
    if method != "flow" and (metric == "rank" or HIT.fullmatch(metric)):
        raise BadPrompt(
            f"{metric} has no gradient, so that no edge can be scored by it: score edges by the log probability, and "
            f"read the circuit's {metric} with faithfulness"
        )
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
            f"fact {i}: the answer has {counted(len(facts.answer[i]), 'token')} and the wrong answer "
            f"{len(facts.wrong[i])}, and "
            f"{len(unequal)} of {len(facts)} facts are such; a logit difference needs equal numbers: use "
            "metric='log probability' (--metric 'log probability')"
        )


def _precise(logits: Tensor) -> Tensor:
    return logits if logits.dtype.itemsize >= 4 else logits.float()
