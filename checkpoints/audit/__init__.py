"""Is a series what it says it is? Published ones often are not; nothing here loads a model or imports torch."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from tqdm.auto import tqdm

from checkpoints.audit import checks, order
from checkpoints.audit.facts import Facts, gather
from checkpoints.audit.report import KINDS, AuditReport, Finding, Severity
from checkpoints.series import Series

__all__ = ["KINDS", "AuditReport", "Facts", "Finding", "Severity", "audit", "audit_facts"]

_SAMPLE_BUDGET = 1 << 26
_MAX_SAMPLE = 4096
_CHECKS: tuple[Callable[[Sequence[Facts]], Iterator[Finding]], ...] = (
    checks.damaged_files,
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


def audit(series: Series, *, values: bool | None = None, progress: bool = False) -> AuditReport:
    """Audit a series: wrong, repeated, damaged, misplaced and missing checkpoints.

    Args:
        series: what to audit; its files are read once each, one at a time.
        values: read every weight (hashes, non-finite and zero tensors, distances); otherwise only sizes, headers,
            configs, tokenizers and, on the hub, published hashes. By default local weights are read, and none are
            fetched from the hub.
        progress: show a progress bar over checkpoints.

    Returns:
        the findings; `AuditReport.status` is 0 for none, 1 for warnings, 2 for errors.
    """
    if values is None:
        values = all(checkpoint.hub is None for checkpoint in series)
    # 256 matrices is a generous guess at the depth of a model; the budget is values kept over the whole series
    size = min(_MAX_SAMPLE, max(256, _SAMPLE_BUDGET // (256 * len(series))))
    bar = tqdm(series, desc="audit", unit="checkpoint", disable=not progress)
    facts = [gather(checkpoint, values=values, sample_size=size) for checkpoint in bar]
    return audit_facts(series, facts, values=values)


def audit_facts(series: Series, facts: Sequence[Facts], *, values: bool) -> AuditReport:
    """`audit` on facts already gathered, one per checkpoint of the series, in its order."""
    position = {checkpoint: place for place, checkpoint in enumerate(series)}
    paths = [[position[checkpoint] for checkpoint in path] for path in series.paths()]
    findings = [*chain.from_iterable(check(facts) for check in _CHECKS), *order.off_path(facts, paths)]
    findings.sort(key=lambda finding: finding.severity == "warning")
    labels = tuple(checkpoint.label for checkpoint in series)
    return AuditReport(series.name, labels, tuple(findings), "weights" if values else "metadata")
