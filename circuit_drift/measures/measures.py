"""The measures a run takes of each checkpoint, each a pure function of (weights, tokenizer, prompts, parameters).

A measure knows its parameters (they go into the key of its result), and how to compute itself on a loaded
checkpoint. Raise its ``version`` whenever its numbers change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol
from weakref import WeakKeyDictionary

import circuit_drift
import circuits
import heads
from checkpoints import BadPrompt, Checkpoint, DriftError, LoadedModel
from checkpoints.loading.load import load_tokenizer
from circuit_drift.prompts import FactSource, NeedleSource, Prompts
from circuit_drift.store.store import key_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MEASURES = ("heads", "circuit", "faithfulness", "roles")
ATTENTION = "sdpa"


class Measure(Protocol):
    """One measure with its parameters and prompts."""

    @property
    def name(self) -> str:
        """Its noun, and the name of its folder in the store."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Measures of the same checkpoint whose results `compute` wants to see."""

    def parameters(self) -> dict[str, Any]:
        """Everything besides the checkpoint that decides the numbers."""

    def compute(self, loaded: LoadedModel, earlier: Mapping[str, Any]) -> Any:
        """Measure one checkpoint."""


@dataclass(frozen=True, slots=True)
class RetrievalMeasure:
    """Teacher-forced retrieval scores, needle accuracy and answer NLL over one set of needle prompts."""

    source: NeedleSource
    batch_size: int = 8

    name = "heads"
    needs: tuple[str, ...] = ()

    def parameters(self) -> dict[str, Any]:
        """Version and prompts; the batch size changes no number."""
        return {"version": 2, "prompts": self.source.hash}

    def compute(self, loaded: LoadedModel, earlier: Mapping[str, Any]) -> "heads.RetrievalScores":
        """Score every head on every needle prompt in one forward pass a batch."""
        prompts = _needle_prompts(tokenizer_of(loaded), self.source)
        return heads.retrieval_scores(loaded.model, prompts, batch_size=self.batch_size)


@dataclass(frozen=True, slots=True)
class CircuitMeasure:
    """EAP-IG edge scores per fact."""

    source: FactSource
    ig_steps: int = 5
    rule: Literal["left", "right", "midpoint"] = "midpoint"

    name = "circuit"
    needs: tuple[str, ...] = ()

    def parameters(self) -> dict[str, Any]:
        """Version, prompts and the path integral's rule."""
        return {"version": 2, "prompts": self.source.hash, "ig_steps": self.ig_steps, "rule": self.rule}

    def compute(self, loaded: LoadedModel, earlier: Mapping[str, Any]) -> "circuits.AttributionGraph":
        """Attribute the logit difference of every usable fact to every edge."""
        facts = circuits.tokenize_facts(tokenizer_of(loaded), self.source.facts)
        return circuits.attribute(loaded.model, facts, ig_steps=self.ig_steps, rule=self.rule)


@dataclass(frozen=True, slots=True)
class FaithfulnessMeasure:
    """How much of the logit difference the circuit keeps, at several sizes, beside random circuits of that size."""

    circuit: CircuitMeasure
    shares: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2)

    name = "faithfulness"
    needs: tuple[str, ...] = ("circuit",)

    def parameters(self) -> dict[str, Any]:
        """The circuit's parameters and the sizes tried."""
        return {"version": 2, "circuit": self.circuit.parameters(), "shares": self.shares}

    def compute(self, loaded: LoadedModel, earlier: Mapping[str, Any]) -> "circuits.FaithfulnessCurve":
        """Run the pruned circuit of each size in the model it was found in."""
        facts = circuits.tokenize_facts(tokenizer_of(loaded), self.circuit.source.facts)
        return circuits.faithfulness_curve(loaded.model, earlier["circuit"], facts, shares=self.shares)


@dataclass(frozen=True, slots=True)
class RolesMeasure:
    """What heads are known for: where they read what they write, and how far they look back or repeat."""

    source: FactSource
    block: int = 24
    count: int = 16

    name = "roles"
    needs: tuple[str, ...] = ()

    def parameters(self) -> dict[str, Any]:
        """Version, prompts, and the repeated random tokens."""
        return {"version": 1, "prompts": self.source.hash, "block": self.block, "count": self.count}

    def compute(self, loaded: LoadedModel, earlier: Mapping[str, Any]) -> "circuits.HeadRoles":
        """Split every head's contribution by source; score previous-token and induction on repeated tokens."""
        facts = circuits.tokenize_facts(tokenizer_of(loaded), self.source.facts)
        roles = circuits.head_roles(loaded.model, facts)
        repeated = heads.repeat_scores(loaded.model, block=self.block, repeats=2, count=self.count)
        for role, detector in (("previous-token", "previous_token"), ("induction", "induction")):
            roles = roles.with_scores(role, repeated.detector(detector))
        return roles


def build_measures(prompts: Prompts, names: Sequence[str] = MEASURES) -> tuple[Measure, ...]:
    """The measures of those names over these prompts, in the order they must be taken.

    Raises:
        DriftError: an unknown name.
    """
    unknown = sorted(set(names) - set(MEASURES))
    if unknown or not names:
        raise DriftError(f"unknown measure {', '.join(unknown) or '(none)'}; choose from {', '.join(MEASURES)}")
    circuit = CircuitMeasure(prompts.facts)
    built: dict[str, Measure] = {
        "heads": RetrievalMeasure(prompts.needles),
        "circuit": circuit,
        "faithfulness": FaithfulnessMeasure(circuit),
        "roles": RolesMeasure(prompts.facts),
    }
    wanted = set(names) | {need for name in names for need in built[name].needs}
    return tuple(built[name] for name in MEASURES if name in wanted)


def tokenizer_of(source: LoadedModel | Checkpoint) -> "PreTrainedTokenizerBase":
    """The tokenizer of a loaded model, or of a checkpoint whose weights are left where they are.

    Raises:
        BadPrompt: there is none, so no prompt can be built.
    """
    tokenizer = load_tokenizer(source) if isinstance(source, Checkpoint) else source.tokenizer
    if tokenizer is None:
        checkpoint = source if isinstance(source, Checkpoint) else source.checkpoint
        folders = ", ".join(str(folder) for folder in checkpoint.tokenizer_folders)
        raise BadPrompt(f"{checkpoint.name} has no tokenizer; looked in {folders}: put tokenizer.json there")
    return tokenizer


_built: "WeakKeyDictionary[PreTrainedTokenizerBase, tuple[NeedleSource, heads.NeedleSet]]" = WeakKeyDictionary()


def _needle_prompts(tokenizer: "PreTrainedTokenizerBase", source: NeedleSource) -> "heads.NeedleSet":
    """The prompts in tokens; those built last with a tokenizer are kept, since a run asks the same again and again."""
    known = _built.get(tokenizer)
    if known is None or known[0] is not source:
        prompts = heads.needle_prompts(
            tokenizer,
            source.needles,
            source.haystack,
            length=source.length,
            depths=source.depths,
            seed=source.seed,
        )
        known = _built[tokenizer] = (source, prompts)
    return known[1]


def read_result(measure: str, folder: Path) -> Any:
    """The stored result of the measure of that name; all but those of `MEASURES` are behavioural (`lab.behaviour`)."""
    if measure == "heads":
        return heads.RetrievalScores.load(folder)
    if measure == "circuit":
        return circuits.AttributionGraph.load(folder)
    if measure == "faithfulness":
        return circuits.FaithfulnessCurve.load(folder)
    if measure == "roles":
        return circuits.HeadRoles.load(folder)
    from circuit_drift.behaviour.table import Behaviour

    return Behaviour.load(folder)


def store_key(checkpoint: Checkpoint, measure: Measure, dtype: str, attention: str = ATTENTION) -> str:
    """The store key of one measure of one checkpoint."""
    other = {} if attention == ATTENTION else {"attention": attention}
    return key_of(
        {
            "weights": checkpoint.weights_hash,
            "tokenizer": checkpoint.tokenizer_hash,
            "config": checkpoint.config_hash,
            "measure": measure.name,
            "parameters": measure.parameters(),
            "dtype": dtype,
            **other,
        }
    )


def with_provenance(result: Any, loaded: LoadedModel, measure: Measure) -> Any:
    """The same result, with what it was computed from written into its ``meta``."""
    checkpoint = loaded.checkpoint
    provenance = {
        "checkpoint": checkpoint.name,
        "step": checkpoint.step,
        "weights_hash": checkpoint.weights_hash,
        "tokenizer_hash": checkpoint.tokenizer_hash,
        "config_hash": checkpoint.config_hash,
        "measure": measure.name,
        "parameters": measure.parameters(),
        "dtype": loaded.dtype,
        "device": loaded.device,
        "device_map": loaded.device_map,
        "attention": loaded.attention,
        "code_version": circuit_drift.__version__,
    }
    return replace(result, meta={**result.meta, "provenance": provenance})
