"""The measures a run takes of each checkpoint, each a pure function of (weights, tokenizer, prompts, parameters).

A measure knows its parameters (they go into the key of its result), and how to compute itself on a loaded
checkpoint. Raise its ``version`` whenever its numbers change.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol
from weakref import WeakKeyDictionary

import circuit_drift
import circuits
import heads
from checkpoints import BadPrompt, Checkpoint, DamagedResult, DriftError, LoadedModel
from checkpoints.loading.load import load_tokenizer
from checkpoints.tokenizers.framing import front_ids
from circuit_drift.prompts import FactSource, NeedleSource, Prompts
from circuit_drift.store.store import Store, key_of

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
        return {"version": 3, "prompts": self.source.hash}

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
        return {"version": 3, "prompts": self.source.hash, "ig_steps": self.ig_steps, "rule": self.rule}

    def compute(self, loaded: LoadedModel, earlier: Mapping[str, Any]) -> "circuits.AttributionGraph":
        """Attribute the logit difference of every usable fact to every edge."""
        facts = self.source.tokenized(tokenizer_of(loaded))
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
        return {"version": 3, "circuit": self.circuit.parameters(), "shares": self.shares}

    def compute(self, loaded: LoadedModel, earlier: Mapping[str, Any]) -> "circuits.FaithfulnessCurve":
        """Run the pruned circuit of each size in the model it was found in."""
        facts = self.circuit.source.tokenized(tokenizer_of(loaded))
        return circuits.faithfulness_curve(loaded.model, earlier["circuit"], facts, shares=self.shares)


@dataclass(frozen=True, slots=True)
class RolesMeasure:
    """What heads are known for: where they read what they write, and how far they look back or repeat.

    What is repeated is drawn from the tokens of the needles' answers, which the model is asked to copy, each block
    closed as a needle is; where those are too few, from all tokens of needles and facts.
    """

    source: FactSource
    needles: NeedleSource
    block: int = 24
    count: int = 16

    name = "roles"
    needs: tuple[str, ...] = ()

    def parameters(self) -> dict[str, Any]:
        """Version, prompts, and the repeated random tokens."""
        prompts = {"prompts": self.source.hash, "needles": self.needles.hash}
        return {"version": 2, **prompts, "block": self.block, "count": self.count}

    def compute(self, loaded: LoadedModel, earlier: Mapping[str, Any]) -> "circuits.HeadRoles":
        """Split every head's contribution by source; score previous-token and induction on repeated tokens."""
        tokenizer = tokenizer_of(loaded)
        facts = self.source.tokenized(tokenizer)
        roles = circuits.head_roles(loaded.model, facts)
        tokens, end = _repeated(tokenizer, _needle_prompts(tokenizer, self.needles), facts, self.block)
        repeated = heads.repeat_scores(
            loaded.model,
            block=min(self.block, len(tokens)),
            repeats=2,
            count=self.count,
            tokens=tokens,
            end=end,
            front=front_ids(tokenizer),
        )
        for role, detector in (("previous-token", "previous_token"), ("induction", "induction")):
            roles = roles.with_scores(role, repeated.detector(detector))
        told = {name: repeated.meta[name] for name in ("block", "drawn_from", "end", "front")}
        return replace(roles, meta={**roles.meta, "repeats": told})


def _repeated(
    tokenizer: "PreTrainedTokenizerBase", needles: "heads.NeedleSet", facts: "circuits.FactSet", block: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens that blocks are drawn from, and those that close a block."""
    tokens = heads.seen_tokens(tokenizer, [prompt.answer for prompt in needles])
    if len(tokens) < block:
        asked = (*facts.clean, *facts.corrupt, *facts.answer, *facts.wrong)
        return heads.seen_tokens(tokenizer, [*asked, *(prompt.ids for prompt in needles)]), ()
    ends = {prompt.ids[prompt.answer_span[1] : prompt.needle_span[1]] for prompt in needles}
    return tokens, ends.pop() if len(ends) == 1 else ()


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
        "roles": RolesMeasure(prompts.facts, prompts.needles),
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
    """The stored result of the measure of that name; all but those of `MEASURES` are behavioural (`lab.behaviour`).

    Raises:
        DamagedResult: it is gone, or not what was written.
        StoreError: a newer version's, or of another kind.
    """
    try:
        return _loader(measure)(folder)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        raise DamagedResult(f"{folder} lacks what a result of {measure} has ({why}); run again") from error


def _loader(measure: str) -> Callable[[Path], Any]:
    if measure == "heads":
        return heads.RetrievalScores.load
    if measure == "circuit":
        return circuits.AttributionGraph.load
    if measure == "faithfulness":
        return circuits.FaithfulnessCurve.load
    if measure == "roles":
        return circuits.HeadRoles.load
    from circuit_drift.behaviour.table import Behaviour

    return Behaviour.load


def stored_result(store: Store, measure: str, key: str) -> Any:
    """The result of a measure with a key, every byte of it checked, and that it is the one of that key.

    Raises:
        DamagedResult: it is gone, not what was written, or another one's.
        StoreError: a newer version's, or of another kind.
    """
    folder = store.folder(measure, key)
    result = read_result(measure, folder)
    provenance = result.meta.get("provenance", {}) if isinstance(result.meta, Mapping) else {}
    found = provenance.get("key", key)
    if found != key:
        raise DamagedResult(f"{folder} holds the result of {found}; run again")
    return result


def store_key(checkpoint: Checkpoint, measure: Measure, dtype: str, attention: str = ATTENTION) -> str:
    """The store key of one measure of one checkpoint: the hash of everything that decides its numbers."""
    other = {} if attention == ATTENTION else {"attention": attention}
    return key_of(
        {
            **identity(checkpoint),
            "measure": measure.name,
            "parameters": measure.parameters(),
            "dtype": dtype,
            "libraries": libraries(),
            **other,
        }
    )


def identity(checkpoint: Checkpoint) -> dict[str, str | None]:
    """The hashes of everything of a checkpoint that decides a result; of code where that is allowed to run."""
    code = checkpoint.code_hash
    return {
        "weights": checkpoint.weights_hash,
        "tokenizer": checkpoint.tokenizer_hash,
        "config": checkpoint.config_hash,
        **({} if code is None else {"code": code}),
    }


@cache
def libraries() -> dict[str, str]:
    """The versions of the libraries that compute the numbers, without what says for which device they were built."""
    return {name: version(name).partition("+")[0] for name in ("torch", "transformers")}


def with_provenance(result: Any, loaded: LoadedModel, measure: Measure, key: str) -> Any:
    """The same result, with what it was computed from written into its ``meta``."""
    checkpoint = loaded.checkpoint
    provenance = {
        "key": key,
        "checkpoint": checkpoint.name,
        "step": checkpoint.step,
        "weights_hash": checkpoint.weights_hash,
        "tokenizer_hash": checkpoint.tokenizer_hash,
        "config_hash": checkpoint.config_hash,
        "code_hash": checkpoint.code_hash,
        "measure": measure.name,
        "parameters": measure.parameters(),
        "dtype": loaded.dtype,
        "device": loaded.device,
        "device_map": loaded.device_map,
        "attention": loaded.attention,
        "code_version": circuit_drift.__version__,
        "libraries": libraries(),
    }
    return replace(result, meta={**result.meta, "provenance": provenance})
