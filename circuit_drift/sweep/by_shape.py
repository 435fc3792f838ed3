"""Peak memory of heads and circuits by the shapes of a config alone, for models that are not, or cannot be, loaded.

What a model's own passes hold is counted on a model without weights (`circuit_drift.sweep.passes`); what attribution
keeps beside them follows from the graph's shape, step by step as in `circuits.attribution.integration`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from checkpoints import Checkpoint
from checkpoints.errors import DriftError
from checkpoints.loading.room import SPARE
from checkpoints.placement import Placement
from checkpoints.results.text import in_bytes
from circuit_drift.measures.base import Measure
from circuit_drift.measures.circuit import CircuitMeasure
from circuit_drift.measures.heads import RetrievalMeasure
from circuit_drift.measures.needles import needle_prompts_of
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.sweep.workers.machine import seconds_to_import

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from circuit_drift.sweep.passes import Passes

WIDE = 4
"""Bytes of a number that attribution computes with."""
ANSWER = 8
"""Rows of a prompt that answers take: positions of logits, rows of attention."""
FACTS_AT_A_TIME = 8
PROCESS = 500_000_000
"""Bytes of a process with torch and transformers before a model is loaded, roughly."""
COUNTED = 64
"""Tokens that passes are counted at, at most: beyond, they grow with the tokens, since attention runs fused."""


@dataclass(frozen=True, slots=True)
class Workload:
    """How a measure runs a model.

    Attributes:
        measure: its name.
        batch, tokens: prompts in a pass, and tokens of the longest.
        facts: whose edges are scored; 0 where no gradients are taken.
        at_clean: whether the gradient of the clean run itself is wanted, as by EAP.
    """

    measure: str
    batch: int
    tokens: int
    facts: int = 0
    at_clean: bool = False


@dataclass(frozen=True, slots=True)
class ShapeMemory:
    """Peak bytes of a measure, by shapes.

    Attributes:
        asked: what is computed.
        weights: of the model.
        beside: on the model's device, beside its weights.
        host: of the edges' scores that are gathered in main memory.
    """

    asked: Workload
    weights: int
    beside: int
    host: int = 0

    @property
    def on_device(self) -> int:
        """Where the model lies, a process's own memory not counted."""
        return self.weights + self.beside

    def line(self) -> str:
        """In words."""
        asked = self.asked
        gathered = f", and {in_bytes(self.host)} of results in main memory" if self.host else ""
        return (
            f"memory by shape, {asked.measure}: about {in_bytes(self.on_device)} where the model lies "
            f"({in_bytes(self.weights)} of weights; {asked.batch} x {asked.tokens} tokens at a time){gathered}"
        )


def beside(weights: int, *, several: bool) -> str:
    """What a process takes of main memory beside what shapes tell, in words.

    Args:
        weights: bytes of a model.
        several: whether another checkpoint follows.
    """
    ahead = f", and {in_bytes(weights)} for the next checkpoint's tensors where {SPARE:g} times that is free"
    return f"beside that in main memory: some {in_bytes(PROCESS)} of Python and its libraries" + ahead * several


def shape_memory(model: "PreTrainedModel", asked: Workload, *, cpu: bool) -> ShapeMemory:
    """What a measure of a model takes.

    Args:
        model: as of `without_weights`.
        asked: what is computed.
        cpu: whether it is to run on a CPU, where attribution multiplies fewer tokens at a time.
    """
    from circuit_drift.sweep.passes import passes

    weights = sum(parameter.numel() * parameter.itemsize for parameter in model.parameters())
    config, counted = _text(model), min(asked.tokens, COUNTED)
    seen = passes(model, asked.batch, counted).scaled(asked.tokens / counted)
    logits = asked.batch * ANSWER * config.vocab_size * (2 * model.dtype.itemsize + 3 * WIDE)
    if not asked.facts:
        rows = 3 * asked.batch * config.num_attention_heads * ANSWER * asked.tokens * WIDE
        return ShapeMemory(asked, weights, seen.forward + logits + rows)
    beside, edges = _of_edges(model, seen, asked, cpu=cpu)
    return ShapeMemory(asked, weights, beside + logits, asked.facts * edges)


def _text(model: "PreTrainedModel") -> Any:
    return model.config.get_text_config()


def _of_edges(model: "PreTrainedModel", seen: "Passes", asked: Workload, *, cpu: bool) -> tuple[int, int]:
    """Most bytes that scoring edges holds beside the weights, and those of one fact's scores.

    Of three moments: both ends of the path are known; a gradient is taken; differences meet gradients.
    """
    from circuits.contraction.contraction import room
    from circuits.graph.shape import GraphShape

    config, item, numbers = _text(model), model.dtype.itemsize, asked.batch * asked.tokens
    layers, heads, stream = config.num_hidden_layers, config.num_attention_heads, config.hidden_size
    shared = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or stream // heads
    shape = GraphShape(layers, heads, shared)
    written, read = heads * width, (heads + 2 * shared) * width
    writers = numbers * (layers * (written + stream) + stream) * WIDE
    gradients = numbers * (layers * (read + 2 * stream) + stream) * WIDE
    traced = numbers * layers * (written + read + 3 * stream) * item
    ends = 3 * writers + 2 * numbers * layers * (written + stream) * item
    ends += seen.kept + traced if asked.at_clean else seen.forward
    step = writers + gradients + seen.backward + traced
    edges = len(shape.readers) * len(shape.writers) * WIDE
    maps = (written + read) * stream * WIDE
    fits, usual = room(maps, layers, on_cpu=cpu)
    all_maps = maps * layers if fits else maps
    token = len(shape.writers) * stream * WIDE
    chunk = min(asked.tokens, max(1, usual // token))
    buffers = chunk * (token + 2 * (1 + heads + 2 * shared) * stream * WIDE)
    return max(ends, step, writers + gradients + buffers + all_maps) + asked.batch * edges, edges


def without_weights(config: "PretrainedConfig", dtype: str) -> "PreTrainedModel":
    """The model of a config, frozen, its parameters without values."""
    import torch
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    with torch.device("meta"):
        model: PreTrainedModel = auto.from_config(config, dtype=getattr(torch, dtype))
    model.requires_grad_(requires_grad=False).train(mode=False)
    return model


def memory_by_shape(
    checkpoint: Checkpoint, measures: Sequence[Measure], placement: Placement
) -> tuple[ShapeMemory, ...]:
    """What those measures take whose memory follows from shapes: heads, and circuits by the plain gradient.

    Nothing is told of weights that are held, or stored, in fewer bits than they compute in. Reads the config and the
    tokenizer.

    Raises:
        DriftError: one of them cannot be read.
    """
    told = [measure for measure in measures if isinstance(measure, (RetrievalMeasure, CircuitMeasure))]
    config = checkpoint.config
    if placement.packed or "quantization_config" in config or not told:
        return ()
    seconds_to_import()
    from transformers import AutoConfig

    try:
        model = without_weights(AutoConfig.for_model(**config), placement.dtype)
    except Exception as error:
        raise DriftError(f"no model can be made of the config of {checkpoint.name}: {error}") from error
    asked = [found for measure in told if (found := _asked(measure, checkpoint)) is not None]
    try:
        return tuple(shape_memory(model, one, cpu=placement.here == "cpu") for one in asked)
    except Exception as error:  # an operation that needs values, or that torch does not know without any
        raise DriftError(f"the model of {checkpoint.name} cannot be run without its weights: {error}") from error


def _asked(measure: RetrievalMeasure | CircuitMeasure, checkpoint: Checkpoint) -> Workload | None:
    """How a measure runs a checkpoint's model; None where that does not follow from shapes."""
    if isinstance(measure, RetrievalMeasure):
        prompts = needle_prompts_of(tokenizer_of(checkpoint), measure.source)
        return Workload(measure.name, min(measure.batch_size, len(prompts)), prompts.length + ANSWER)
    if measure.scoring.backward != "plain":
        return None
    from circuits.attribution.methods import find_quadrature

    plan = find_quadrature(measure.scoring.method, measure.scoring.ig_steps, measure.scoring.rule)
    if plan is None or plan.kind != "fixed":
        return None
    lengths = measure.facts(tokenizer_of(checkpoint)).lengths
    batch = min(FACTS_AT_A_TIME, len(lengths))
    return Workload(measure.name, batch, max(lengths), len(lengths), at_clean=1.0 in plan.ends)
