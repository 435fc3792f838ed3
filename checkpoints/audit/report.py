"""What an audit found: faults with severity, evidence and the public case each kind is known from."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from checkpoints.results.result import Result
from checkpoints.results.strict_json import dump_json
from checkpoints.results.text import counted

if TYPE_CHECKING:
    import pandas as pd

Severity = Literal["error", "warning"]

# kind -> (severity, where such a fault was seen in a published series, or the rule it breaks)
KINDS: Mapping[str, tuple[Severity, str]] = {
    "damaged_files": ("error", "a checkpoint must hold every byte its headers and index promise"),
    "adapter_beside": ("warning", "huggingface/peft#1381"),
    "damaged_beside": ("warning", "facebookresearch/metaseq#53"),
    "non_finite": ("error", "weights must be finite"),
    "all_zero": ("error", "a trained tensor does not return to zero"),
    "identical": ("error", "allenai/OLMo#915; EleutherAI/pythia#83, #198, #205"),
    "copied_tensors": ("error", "EleutherAI/pythia#206"),
    "foreign": ("error", "EleutherAI/pythia#203"),
    "misplaced": ("error", "EleutherAI/pythia#195, #205"),
    "off_path": ("warning", "EleutherAI/pythia#108"),
    "missing_steps": ("warning", "allenai/OLMo#842"),
    "tensors_changed": ("error", "tensors of one run keep their names and shapes"),
    "dtype_changed": ("warning", "values rounded differently are not compared like with like"),
    "config_changed": ("warning", "a run keeps its config within a stage"),
    "tokenizer_changed": ("error", "a run keeps its tokenizer"),
    "tie_flipped": ("error", "tied and untied output heads are different models"),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        kind: a key of `KINDS`.
        checkpoints: labels of the checkpoints concerned.
        message: what is wrong, in a sentence with the values.
        evidence: the figures behind it; plain JSON values.
    """

    kind: str
    checkpoints: tuple[str, ...]
    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def severity(self) -> Severity:
        """``"error"``: the checkpoint is unusable or not what its name says; ``"warning"``: look at it."""
        return KINDS[self.kind][0]

    @property
    def sentence(self) -> str:
        """The fault in a line."""
        return f"{self.severity}: {self.kind}: {self.message} ({self.reference})"

    @property
    def reference(self) -> str:
        """Threads in which a published series had this fault, or the rule that it breaks."""
        return KINDS[self.kind][1]


@dataclass(frozen=True, slots=True, repr=False)
class AuditReport(Result):
    """The outcome of `audit`.

    Attributes:
        series: name of the series.
        checkpoints: labels of all checkpoints looked at, in order.
        faults: what was found, errors first.
        examined: how closely: ``"weights"``, ``"samples"`` or ``"metadata"``; see `checkpoints.audit.audit`.
    """

    artifact, title = "audit", "Audit"

    series: str
    checkpoints: tuple[str, ...]
    faults: tuple[Fault, ...]
    examined: Literal["weights", "samples", "metadata"]

    @property
    def status(self) -> int:
        """0 = nothing found, 1 = warnings only, 2 = errors."""
        return max(({"warning": 1, "error": 2}[fault.severity] for fault in self.faults), default=0)

    @property
    def suspects(self) -> dict[str, Severity]:
        """Label -> worst severity, for every checkpoint that a fault names."""
        worst: dict[str, Severity] = {}
        for fault in self.faults:
            for label in fault.checkpoints:
                worst[label] = "error" if "error" in (worst.get(label), fault.severity) else "warning"
        return worst

    @property
    def verdict(self) -> str:
        """One sentence: what was examined, and how many faults were found."""
        count = f"{counted(len(self.checkpoints), 'checkpoint')} of {self.series} ({self.examined} examined)"
        if not self.faults:
            return f"{count}: nothing found"
        errors = sum(fault.severity == "error" for fault in self.faults)
        return f"{count}: {counted(errors, 'error')}, {counted(len(self.faults) - errors, 'warning')}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the report as one JSON object."""
        return {
            "series": self.series,
            "examined": self.examined,
            "status": self.status,
            "checkpoints": list(self.checkpoints),
            "findings": [
                {
                    "kind": fault.kind,
                    "severity": fault.severity,
                    "checkpoints": list(fault.checkpoints),
                    "message": fault.message,
                    "evidence": dict(fault.evidence),
                    "reference": fault.reference,
                }
                for fault in self.faults
            ],
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "AuditReport":
        """The report that `to_dict` told of."""
        faults = tuple(
            Fault(entry["kind"], tuple(entry["checkpoints"]), entry["message"], entry["evidence"])
            for entry in document["findings"]
        )
        return cls(document["series"], tuple(document["checkpoints"]), faults, document["examined"])

    def to_json(self) -> str:
        """`to_dict` as text."""
        return dump_json(self.to_dict(), indent=1)

    def to_frame(self) -> "pd.DataFrame":
        """One row per fault and checkpoint: severity, kind, checkpoint, message, reference."""
        import pandas as pd

        columns = ["severity", "kind", "checkpoint", "message", "reference"]
        rows = [
            (fault.severity, fault.kind, label, fault.message, fault.reference)
            for fault in self.faults
            for label in fault.checkpoints
        ]
        return pd.DataFrame(rows, columns=columns)

    def _table(self) -> str:
        rows = "".join(
            f"<tr><td>{fault.severity}</td><td>{fault.kind}</td>"
            f"<td>{escape(', '.join(fault.checkpoints[:6]))}</td><td>{escape(fault.message)}</td>"
            f"<td>{escape(fault.reference)}</td></tr>"
            for fault in self.faults[:100]
        )
        head = "".join(f"<th>{name}</th>" for name in ("severity", "kind", "checkpoints", "fault", "seen in"))
        return f"<table><tr>{head}</tr>{rows}</table>" if rows else ""

    @property
    def findings(self) -> tuple[Fault, ...]:
        """Former name of `faults`."""
        warnings.warn("AuditReport.findings is now AuditReport.faults", DeprecationWarning, stacklevel=2)
        return self.faults

    @property
    def summary(self) -> str:
        """Former name of `verdict`."""
        warnings.warn("AuditReport.summary is now AuditReport.verdict", DeprecationWarning, stacklevel=2)
        return self.verdict
