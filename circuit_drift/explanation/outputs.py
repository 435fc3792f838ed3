"""Outputs of heads and MLPs of one checkpoint put into the other at chosen positions: both run on the same prompts.

Weights tell which component's change did it; outputs tell at which part of the prompt its work is done. Nothing is
linearised: where a node's output is replaced, everything behind it is computed anew.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from checkpoints.errors import BadPrompt
from checkpoints.model.anatomy import Anatomy
from checkpoints.model.projections import linear_weight
from circuit_drift.explanation.behaviours import Batch, Behaviour, batches, run
from circuit_drift.explanation.explanation import EVERYWHERE, NODE, NODE_FORMS, Floats, OutputPatching
from circuit_drift.explanation.line import Line
from circuit_drift.explanation.shares import BATCH, attention_shown

Held = list[list[Tensor]]
"""Batch by batch, node by node: what a node wrote, [b, t, d_model]."""


@dataclass(frozen=True, slots=True)
class Node:
    """Something that writes into the residual stream.

    Attributes:
        name: ``a1.h2``, ``a1.kv0`` (all heads of a group), ``a1`` (attention as a whole), ``m3``, ``embedding``.
        module: whose output holds what it writes.
        inputs: of heads, which inputs of the output projection are theirs; ``None`` = the whole output.
    """

    name: str
    module: nn.Module
    inputs: slice | None = None

    def written(self, x: Tensor, output: Tensor) -> Tensor:
        """What it writes, [..., d_model], given its module's input and output."""
        return output if self.inputs is None else x[..., self.inputs] @ linear_weight(self.module)[:, self.inputs].T


def patch_outputs(line: Line, behaviour: Behaviour, names: Sequence[str], *, batch_size: int = BATCH) -> OutputPatching:
    """Put what nodes of B write into A, and of A into B, one node and one part of the prompts at a time.

    Args:
        line: from A to B; afterwards its model stands at A.
        behaviour: what is asked; its spans are the positions to choose from, beside all of them together.
        names: of the nodes.
        batch_size: prompts at a time.

    Raises:
        BadPrompt: no node of that name, or none at all.
    """
    if not names:
        raise BadPrompt("name the outputs to put in, as a18.h6, a18 or m3")
    nodes = [node_named(line.components.parts, name) for name in names]
    parts = behaviour.parts[:-1]
    parts = (EVERYWHERE, *(parts if len(parts) > 1 else ()))
    ends: list[tuple[Floats, Held]] = []
    for at in (0.0, 1.0):
        line.move(at)
        ends.append(_recorded(line, behaviour, nodes, batch_size))
    (before, of_a), (after, of_b) = ends
    removed = _replaced(line, behaviour, nodes, parts, of_b, of_a, batch_size)
    line.move(0.0)
    inserted = _replaced(line, behaviour, nodes, parts, of_a, of_b, batch_size)
    return OutputPatching(tuple(names), parts, before, after, inserted, removed)


def node_named(parts: Anatomy, name: str) -> Node:
    """The node of that name.

    Raises:
        BadPrompt: there is none; the message says what there is.
    """
    if name == "embedding":
        return Node(name, parts.embedding)
    found = NODE.fullmatch(name)
    layer = int(found[2]) if found else len(parts.blocks)
    if found and layer < len(parts.blocks):
        block = parts.blocks[layer]
        if found[1] == "m" and found[3] is None:
            return Node(name, block.mlp)
        if found[1] == "a" and found[3] is None:
            return Node(name, block.o)
        groups = block.k.heads if found[3] == "kv" else block.q.heads
        width = linear_weight(block.o).shape[1] // groups
        if found[1] == "a" and int(found[4]) < groups:
            return Node(name, block.o, slice(int(found[4]) * width, (int(found[4]) + 1) * width))
    raise BadPrompt(
        f"there is no output {name!r} to put in: the model has {parts.n_layers} layers of {parts.n_heads} heads; "
        f"{NODE_FORMS}"
    )


def writer_of(component: str) -> str | None:
    """The node through which a component acts: ``a1.h2`` of ``a1.h2.q``; ``None`` of what only reads, as the head."""
    if component == "embedding":
        return component
    found = NODE.match(component)
    return None if found is None else found[0]


def _recorded(line: Line, behaviour: Behaviour, nodes: Sequence[Node], size: int) -> tuple[Floats, Held]:
    """[N] the behaviour where the model stands, and what the nodes write there."""
    held: Held = []

    def keep(place: int) -> Callable[[Tensor], Tensor]:
        def own(written: Tensor) -> Tensor:
            held[-1][place] = written
            return written

        return own

    @contextmanager
    def tapped(_number: int, _batch: Batch) -> Iterator[None]:
        held.append([torch.empty(0)] * len(nodes))
        with ExitStack() as stack:
            for place, node in enumerate(nodes):
                stack.enter_context(_written(node, keep(place)))
            yield

    return _values(line, behaviour, size, tapped), held


def _replaced(
    line: Line, behaviour: Behaviour, nodes: Sequence[Node], parts: Sequence[str], own: Held, other: Held, size: int
) -> Floats:
    """[nodes, parts, N] the behaviour with what one node writes at one part of the prompts taken from the other end."""

    def value(place: int, part: str) -> Floats:
        @contextmanager
        def tapped(number: int, batch: Batch) -> Iterator[None]:
            step = other[number][place] - own[number][place]
            step = step * _mask(behaviour, batch, part).to(step).reshape(*step.shape[:-1], 1)
            with _written(nodes[place], lambda written: written + step.to(written)):
                yield

        return _values(line, behaviour, size, tapped)

    return np.array([[value(place, part) for part in parts] for place in range(len(nodes))])


def _values(line: Line, behaviour: Behaviour, size: int, tapped: Callable[[int, Batch], Any]) -> Floats:
    found = np.zeros(len(behaviour))
    with torch.no_grad(), attention_shown(line.model, behaviour):
        for number, batch in enumerate(batches(behaviour, line.model, size)):
            with tapped(number, batch):
                found[list(batch.indices)] = run(line.model, behaviour, batch, {}).double().cpu().numpy()
    return found


def _mask(behaviour: Behaviour, batch: Batch, part: str) -> Tensor:
    """[b, t] the positions of a part of the prompts."""
    width = batch.ids.shape[1]
    if part == EVERYWHERE:
        return torch.ones(len(batch.indices), width)
    place = behaviour.parts.index(part)
    return torch.stack([behaviour.part_of(prompt, width) == place for prompt in batch.indices])


@contextmanager
def _written(node: Node, act: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """What a node writes goes through a function on its way, while the block runs."""

    def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> Any:
        first, *others = output if isinstance(output, tuple) else (output,)
        own = node.written(inputs[0], first)
        changed = first + (act(own) - own)
        return (changed, *others) if isinstance(output, tuple) else changed

    handle = node.module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
