"""The exact run of a set of nodes, or of nodes and neurons: what is outside writes what the corrupt run wrote.

Unlike an edge, a node outside shows its corrupt output to every reader, so one plain forward with some activations
replaced is the whole computation. A norm behind attention or MLP divides what is inside by the size of the mixed
output, and what is outside by that of the corrupt one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from checkpoints.model.anatomy import Anatomy, Block, anatomy, linear_weight
from checkpoints.model.plain import takes_model
from checkpoints.stats.units import Floats
from circuits.attribution.edges import graph_shape
from circuits.attribution.mlp_parts import MlpHooks, Neurons, Seen
from circuits.attribution.nodes import stream_ends
from circuits.facts.batch import Batch, batches
from circuits.facts.facts import FactSet
from circuits.facts.metrics import Metric, MetricName, find_metric
from circuits.graph.nodes import NodeCircuit
from circuits.graph.shape import require_same_shape
from circuits.intervention.faithfulness import Faithfulness
from circuits.trace.trace import (
    LayerTrace,
    Trace,
    check_stream,
    frozen,
    head_outputs,
    head_writer,
    hooks,
    output_tensor,
    run,
)


@takes_model
def node_faithfulness(
    model: PreTrainedModel,
    circuit: NodeCircuit,
    facts: FactSet,
    *,
    metric: MetricName | Metric = "logit difference",
    n_random: int = 3,
    batch_size: int = 8,
    seed: int = 0,
) -> Faithfulness:
    """Run a circuit of nodes (and neurons) alone, exactly, beside random ones of its size.

    Args:
        model: the model it runs in.
        circuit: what stays live.
        facts: what is asked.
        metric: as for `circuits.attribute`.
        n_random: random circuits with as many parts.
        batch_size: facts in one pass.
        seed: of the random circuits.

    Raises:
        CheckpointMismatch: the circuit belongs to another architecture.
        UnsupportedArchitecture: as for `circuits.attribution.nodes.attribute_nodes`.
    """
    rivals = _random(circuit, n_random, seed)
    metrics, clean, corrupt = node_metrics(model, [circuit, *rivals], facts, metric=metric, batch_size=batch_size)
    return Faithfulness(
        n_edges=circuit.size,
        metric=metrics[0],
        random_metric=metrics[1:],
        clean_metric=clean,
        corrupt_metric=corrupt,
        unit="nodes" if circuit.neurons is None else "heads and neurons",
        meta={"prompts": facts.hash, "metric": find_metric(metric, facts)[0], "ablation": "corrupt"},
    )


def node_metrics(
    model: PreTrainedModel,
    circuits: Sequence[NodeCircuit],
    facts: FactSet,
    *,
    metric: MetricName | Metric = "logit difference",
    batch_size: int = 8,
) -> tuple[Floats, Floats, Floats]:
    """The metric of many circuits of nodes, exactly.

    Returns:
        [C, N] of the circuits, [N] of the clean and [N] of the corrupt run.
    """
    _name, measure = find_metric(metric, facts)
    parts = anatomy(model)
    for circuit in circuits:
        require_same_shape(circuit.shape, graph_shape(parts))
    neurons = Neurons(parts) if any(circuit.neurons is not None for circuit in circuits) else None
    metrics = np.zeros((len(circuits) + 2, len(facts)))
    with frozen(model), torch.no_grad():
        for number, batch in enumerate(batches(facts, batch_size, model)):
            clean = run(parts, batch, batch.clean)
            if number == 0:
                check_stream(parts, clean)
            patcher = _Patcher.of(parts, neurons, batch, check=number == 0)
            rows = [measure(patcher.logits(circuit), batch, clean.logits) for circuit in circuits]
            rows += [measure(trace.logits, batch, clean.logits) for trace in (clean, patcher.corrupt)]
            metrics[:, list(batch.indices)] = torch.stack(rows).double().cpu().numpy()
    return metrics[:-2], metrics[-2], metrics[-1]


@dataclass(frozen=True, slots=True)
class _Patcher:
    """What the runs of many circuits over one batch share: the corrupt run, and its neurons where they are wanted."""

    parts: Anatomy
    neurons: Neurons | None
    batch: Batch
    corrupt: Trace
    seen: dict[int, Seen]

    @classmethod
    def of(cls, parts: Anatomy, neurons: Neurons | None, batch: Batch, *, check: bool) -> "_Patcher":
        """Run the corrupt prompts."""
        watch = None if neurons is None else MlpHooks(neurons)
        with hooks([] if watch is None else watch.handles(parts.blocks)):
            corrupt = run(parts, batch, batch.corrupt, readers=False)
        seen = {} if watch is None else watch.seen
        if check and neurons is not None:
            for index, shown in seen.items():
                neurons.check(parts.blocks[index], shown)
        return cls(parts, neurons, batch, corrupt, seen)

    def logits(self, circuit: NodeCircuit) -> Tensor:
        """[n, vocab] with the circuit live and all else corrupt."""
        inside = torch.as_tensor(circuit.nodes, device=self.corrupt.stream.device)
        handles: list[Any] = []
        watch = MlpHooks(self.neurons) if self.neurons is not None and circuit.neurons is not None else None
        handles += [] if watch is None else watch.handles(self.parts.blocks)
        for block, corrupt in zip(self.parts.blocks, self.corrupt.layers, strict=True):
            first = circuit.shape.first_writer(block.index)
            out = ~inside[first : first + self.parts.n_heads]
            if out.any():
                handles += _head_hooks(block, corrupt, out)
            if watch is not None and circuit.neurons is not None:
                away = torch.as_tensor(~circuit.neurons[block.index], device=inside.device)
                if away.any():
                    handles += self.neuron_hooks(block, watch.seen[block.index], away)
            elif not inside[first + self.parts.n_heads]:
                end = stream_ends(block)[1]
                handles.append(end.register_forward_hook(_replacer(corrupt.mlp_out / block.residual_scale)))
        stream = None if inside[0] else self.corrupt.stream
        with hooks(handles):
            return run(self.parts, self.batch, self.batch.clean, stream=stream, readers=False).logits

    def neuron_hooks(self, block: Block, live: Seen, away: Tensor) -> list[Any]:
        """Put in the corrupt values of some neurons."""
        neurons, corrupt = self.neurons, self.seen[block.index]
        assert neurons is not None

        def replace_neurons(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (torch.where(away, corrupt.inputs[0], args[0]), *args[1:])

        def rescale(_module: nn.Module, _args: Any, output: Any) -> Any:
            change = (neurons.values(block, corrupt) - neurons.values(block, live)) * away
            written = change @ linear_weight(neurons.module(block)).to(change.dtype).T
            assert norm is not None
            written = norm.centre(written) * norm.gain.to(change.dtype)
            return _with(output, output_tensor(output) + written.to(output_tensor(output).dtype))

        handles = [neurons.module(block).register_forward_pre_hook(replace_neurons)]
        norm = block.mlp_post_norm
        return handles if norm is None else [*handles, norm.module.register_forward_hook(rescale)]


def _head_hooks(block: Block, corrupt: LayerTrace, out: Tensor) -> list[Any]:
    """Put in the corrupt z of some heads."""
    live, away = LayerTrace(), out.repeat_interleave(block.head_dim)

    def replace_heads(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        live.z = torch.where(away, corrupt.z, args[0])
        return (live.z, *args[1:])

    def keep_raw(_module: nn.Module, args: tuple[Any, ...]) -> None:
        live.attention_raw = args[0]

    def rescale(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        change = (head_outputs(block, corrupt) - head_outputs(block, live)) * out[:, None]
        written = change.flatten(-2) @ head_writer(block, change.dtype).flatten(0, 1)
        return output + (written / block.residual_scale).to(output.dtype)

    handles = [block.o.register_forward_pre_hook(replace_heads)]
    if (norm := block.attention_post_norm) is None:
        return handles
    return [*handles, norm.module.register_forward_pre_hook(keep_raw), norm.module.register_forward_hook(rescale)]


def _replacer(value: Tensor) -> Callable[..., Any]:
    return lambda _module, _args, output: _with(output, value.to(output_tensor(output).dtype))


def _with(output: Any, tensor: Tensor) -> Any:
    return (tensor, *output[1:]) if isinstance(output, tuple) else tensor


def _random(circuit: NodeCircuit, n: int, seed: int) -> list[NodeCircuit]:
    """Circuits with as many parts of each kind, drawn at random."""
    generator = np.random.default_rng(seed)
    rivals = []
    for _ in range(n):
        if circuit.neurons is None:
            rivals.append(NodeCircuit(circuit.shape, generator.permutation(circuit.nodes)))
            continue
        neurons = generator.permutation(circuit.neurons.ravel()).reshape(circuit.neurons.shape)
        mlps = np.array([name.startswith("m") for name in circuit.shape.writers])
        nodes = circuit.nodes.copy()
        nodes[~mlps], nodes[mlps] = generator.permutation(nodes[~mlps]), neurons.any(1)
        rivals.append(NodeCircuit(circuit.shape, nodes, neurons))
    return rivals
