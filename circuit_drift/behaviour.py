"""What a checkpoint does, beside how: fact recall, needle accuracy, answer NLL, and how they change."""

from typing import TYPE_CHECKING

import numpy as np

from heads.comparison import Change

if TYPE_CHECKING:
    import circuits
    import heads


def recall_by_class(graph: "circuits.AttributionGraph", label: str = "class") -> dict[str, tuple[float, int]]:
    """Share of facts whose answer is the top token, for each value of a label: value -> (share, n)."""
    known = graph.answer_rank == 0
    classes = np.array([str(labels.get(label, "all")) for labels in graph.labels])
    return {
        name: (float(known[classes == name].mean()), int((classes == name).sum())) for name in dict.fromkeys(classes)
    }


def behaviour_changes(
    compared: "heads.HeadComparison | None",
    a: "circuits.AttributionGraph | None",
    b: "circuits.AttributionGraph | None",
) -> tuple[Change, ...]:
    """Needle accuracy, answer NLL and fact recall from A to B, as far as they were measured on both."""
    changes = [compared.accuracy, compared.nll] if compared is not None else []
    if a is not None and b is not None:
        changes.append(recall_change(a.answer_rank == 0, b.answer_rank == 0))
    return tuple(changes)


def recall_change(a: np.ndarray, b: np.ndarray) -> Change:
    """Change of the share of facts recalled, over identical facts.

    The p value is the exact McNemar test's: the two-sided binomial test over the facts that changed sides. The
    interval is the paired t interval of the mean difference.

    Args:
        a: [N] bool, recalled at A.
        b: [N] bool, recalled at B, in the same order.
    """
    from scipy.stats import binomtest, t

    gained, lost, n = int((~a & b).sum()), int((a & ~b).sum()), len(a)
    p = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    difference = b.astype(float) - a.astype(float)
    delta = float(difference.mean())
    half = float(t.ppf(0.975, n - 1) * difference.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    return Change("fact recall", float(a.mean()), float(b.mean()), delta, delta - half, delta + half, p)
