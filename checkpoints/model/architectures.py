"""What is proved for each architecture, as a table that can be printed.

Every row is held to by the tests: a tiny model of the architecture is saved, loaded, reused and compared with plain
transformers, tensor for tensor and logit for logit, and so are its TransformerLens bridges. Other architectures of
the common interface load as well; nothing is claimed of them, and what a method cannot treat correctly it refuses by
name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from checkpoints.results.result import Result
from checkpoints.results.text import counted

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Capability:
    """One architecture.

    Attributes:
        model_type: as config.json names it.
        series: open training series of this architecture, or its best known models.
        attention: implementations that transformers offers for it.
        reuse: how a live model takes the next checkpoint: ``"in place"``, its files put straight into the parameters,
            or ``"through a fresh load"``, where shapes on disk are not the model's.
        bridge: which of ``hook_q``, ``hook_k``, ``hook_v`` and ``hook_z`` a TransformerLens bridge fires while the
            model's own attention runs; a stock bridge, which computes attention itself, fires all four and
            ``hook_pattern``.
        particular: what sets it apart for interpretation.
    """

    model_type: str
    series: str
    attention: tuple[str, ...]
    reuse: Literal["in place", "through a fresh load"]
    bridge: tuple[str, ...]
    particular: str


_BOTH = ("sdpa", "eager")
_EAGER = ("eager",)
_QKVZ = ("q", "k", "v", "z")
_Z = ("z",)

CAPABILITIES = (
    Capability("gpt2", "stanford-crfm", _BOTH, "in place", _Z, "fused QKV, learned positions"),
    Capability("gpt_neox", "Pythia", _BOTH, "in place", _Z, "parallel attention and MLP, fused QKV"),
    Capability("llama", "SmolLM, TinyLlama", _BOTH, "in place", _QKVZ, "grouped queries"),
    Capability("qwen2", "Qwen2", _BOTH, "in place", _QKVZ, "grouped queries, QKV biases"),
    Capability("qwen3", "Qwen3", _BOTH, "in place", _QKVZ, "grouped queries, normalised queries and keys"),
    Capability("mistral", "Mistral", _BOTH, "in place", _QKVZ, "grouped queries, sliding window"),
    Capability("gemma2", "Gemma 2", _EAGER, "in place", _QKVZ, "softcapped scores, norms after blocks, windows"),
    Capability("gemma3_text", "Gemma 3", _BOTH, "in place", _QKVZ, "norms after blocks, windows"),
    Capability("olmo2", "OLMo 2", _BOTH, "in place", _QKVZ, "norms after blocks, normalised queries and keys"),
    Capability("olmo3", "OLMo 3", _BOTH, "in place", _QKVZ, "as OLMo 2, with windows"),
    Capability("mixtral", "Mixtral", _BOTH, "through a fresh load", _QKVZ, "mixture of experts, fused on loading"),
    Capability("qwen3_moe", "Qwen3-MoE", _BOTH, "through a fresh load", _QKVZ, "mixture of experts, fused on loading"),
    Capability(
        "hunyuan_v1_moe", "HunYuan", _BOTH, "through a fresh load", _QKVZ, "mixture of experts, fused on loading"
    ),
    Capability("gpt_oss", "GPT-OSS", _EAGER, "in place", _QKVZ, "learned attention sinks, mixture of experts, windows"),
)


@dataclass(frozen=True, slots=True, repr=False)
class CapabilityTable(Result):
    """The rows, with the forms that a terminal, a notebook and a table want."""

    artifact, title = "architectures", "Architectures"

    rows: tuple[Capability, ...] = CAPABILITIES

    @property
    def verdict(self) -> str:
        """How many are proved, and which are treated otherwise than the others."""
        eager = [row.model_type for row in self.rows if row.attention == _EAGER]
        afresh = [row.model_type for row in self.rows if row.reuse != "in place"]
        return (
            f"{counted(len(self.rows), 'architecture')} proved; eager attention alone: {', '.join(eager) or 'none'}; "
            f"loaded afresh for every checkpoint: {', '.join(afresh) or 'none'}"
        )

    def to_frame(self) -> "pd.DataFrame":
        """One row per architecture."""
        import pandas as pd

        return pd.DataFrame([self._cells(row) for row in self.rows], columns=list(_COLUMNS))

    def __str__(self) -> str:
        table = [_COLUMNS, *(self._cells(row) for row in self.rows)]
        widths = [max(len(cells[column]) for cells in table) for column in range(len(_COLUMNS))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in table
        )

    def _table(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in self._cells(row)) + "</tr>" for row in self.rows
        )
        return f"<table><tr>{head}</tr>{body}</table>"

    @staticmethod
    def _cells(row: Capability) -> tuple[str, ...]:
        attention, bridge = ", ".join(row.attention), " ".join(row.bridge)
        return row.model_type, row.series, attention, row.reuse, bridge, row.particular


_EAGER_ALONE = frozenset(row.model_type for row in CAPABILITIES if row.attention == _EAGER)


def attention_for(config: Mapping[str, Any]) -> str:
    """The attention implementation to load a model with by default.

    Args:
        config: the content of config.json.

    Returns:
        ``"sdpa"``, or ``"eager"`` where the table knows the architecture to have no other.
    """
    parts = (config, *(part for part in config.values() if isinstance(part, Mapping)))
    return "eager" if any(str(part.get("model_type")) in _EAGER_ALONE for part in parts) else "sdpa"


_COLUMNS = ("architecture", "series", "attention", "next checkpoint", "bridge", "particular")


def capabilities() -> CapabilityTable:
    """The table of proved architectures."""
    return CapabilityTable()
