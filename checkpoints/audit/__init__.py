"""Is a series what it says it is? Published ones often are not.

Nothing here loads a model. Tokenizers are read, for which torch is imported, only where their files differ.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import get_args

from tqdm.auto import tqdm

from checkpoints.audit import checks, order
from checkpoints.audit.facts import BLOCK, CheckpointFacts, Depth, confirmed, gather
from checkpoints.audit.report import KINDS, AuditReport, Fault, Severity
from checkpoints.errors import DriftError, require_choice
from checkpoints.series.series import Series

__all__ = ["KINDS", "AuditReport", "Depth", "Facts", "Fault", "Severity", "audit", "audit_facts"]

_SAMPLE_BUDGET = 1 << 26
_READ_BUDGET = 2048
_MIN_SAMPLE, _MAX_SAMPLE = 256, 4096
_CHECKS: tuple[Callable[[Sequence[CheckpointFacts]], Iterator[Fault]], ...] = (
    checks.damaged_files,
    checks.damaged_beside,
    checks.adapter_beside,
    checks.non_finite,
    checks.all_zero,
    checks.identical,
    checks.copied_tensors,
    checks.tensors_changed,
    checks.dtype_changed,
    checks.config_changed,
    checks.tokenizer_changed,
    checks.tie_flipped,
    order.missing_steps,
)


def audit(series: Series, *, depth: Depth | None = None, progress: bool = False) -> AuditReport:
    """Audit a series: wrong, repeated, damaged, misplaced and missing checkpoints.

    Args:
        series: what to audit.
        depth: ``"weights"`` reads every value, one file at a time. ``"samples"`` reads some of every tensor, at most a
            few megabytes a checkpoint, and in full only what samples do not tell apart: it finds the same but for
            values that are not finite, which loading a checkpoint refuses anyway. ``"metadata"`` reads sizes, headers,
            configs, tokenizers and, on the hub, published hashes. By default local weights are read, and none are
            fetched from the hub.
        progress: show a progress bar over checkpoints.

    Returns:
        the faults; `AuditReport.status` is 0 for none, 1 for warnings, 2 for errors.

    Raises:
        DriftError: no such depth.
    """
    if depth is None:
        depth = "weights" if all(checkpoint.hub is None for checkpoint in series) else "metadata"
    require_choice("depth", depth, get_args(Depth), error=DriftError)
    size = _sample_size(series, depth)
    bar = tqdm(series, desc="audit", unit="checkpoint", disable=not progress)
    facts = [gather(checkpoint, depth=depth, sample_size=size) for checkpoint in bar]
    return audit_facts(series, confirmed(facts), depth=depth)


def audit_facts(series: Series, facts: Sequence[CheckpointFacts], *, depth: Depth) -> AuditReport:
    """`audit` on facts already gathered, one per checkpoint of the series, in its order."""
    position = {checkpoint: place for place, checkpoint in enumerate(series)}
    paths = [[position[checkpoint] for checkpoint in path] for path in series.paths()]
    found = chain(chain.from_iterable(check(facts) for check in _CHECKS), order.off_path(facts, paths))
    faults = [fault for fault in found if not _left_by_choice(series, fault)]
    faults.sort(key=lambda fault: fault.severity == "warning")
    labels = tuple(checkpoint.label for checkpoint in series)
    return AuditReport(series.name, labels, tuple(faults), depth)


def _left_by_choice(series: Series, fault: Fault) -> bool:
    """Whether steps are missing from a part of a series alone, which has been chosen from the whole."""
    if fault.kind != "missing_steps" or series.chosen_from is None:
        return False
    low, high = (series.at(label) for label in fault.checkpoints)
    line = [c.step for c in series.chosen_from if (c.stage, c.branch) == (low.stage, low.branch)]
    return any((low.step or 0) < (step or 0) < (high.step or 0) for step in line)


def _sample_size(series: Series, depth: Depth) -> int:
    """Values of each matrix to keep, within the budgets of memory and, for samples, of reads from the disk."""
    # 256 matrices is a generous guess at the depth of a model; the budget is values kept over the whole series
    size = min(_MAX_SAMPLE, max(_MIN_SAMPLE, _SAMPLE_BUDGET // (256 * len(series))))
    if depth != "samples":
        return size
    return min(size, max(_MIN_SAMPLE, _READ_BUDGET * BLOCK // max(1, _matrices(series))))


def _matrices(series: Series) -> int:
    """How many matrices a checkpoint of the series holds."""
    for checkpoint in series:
        shapes = [tensor.shape for tensor in gather(checkpoint, depth="metadata", sample_size=0).tensors.values()]
        if shapes:
            return sum(len(shape) > 1 for shape in shapes)
    return 0
