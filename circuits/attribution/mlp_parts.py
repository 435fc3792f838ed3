"""What is inside an MLP: its neurons, or its experts, and what each writes.

The share of a part is its own difference between the corrupt and the clean run, carried to the stream by a fixed map,
times the gradient at the MLP's **output**. (The published code takes the gradient at the input, which is another
number.) A norm behind the MLP divides by the size of its whole output; that factor goes into the part's own value.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from checkpoints.errors import UnsupportedArchitecture
from checkpoints.model.anatomy import Anatomy, Block, linear_weight
from circuits.facts.batch import Batch
from circuits.trace.trace import output_tensor, widen

_DOWN = ("down_proj", "c_proj", "dense_4h_to_h", "fc2", "w2")
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}


@dataclass(slots=True)
class Seen:
    """What one run showed of one MLP.

    Attributes:
        inputs: arguments of the module that holds its parts.
        raw: [b, t, d] what it wrote, before any norm behind it.
        output: what that module returned.
    """

    inputs: tuple[Tensor, ...] = ()
    raw: Tensor | None = None
    output: Tensor | None = None


class Interior(Protocol):
    """How the MLPs of a model come apart."""

    @property
    def width(self) -> int:
        """How many parts each has."""

    def module(self, block: Block) -> nn.Module | None:
        """The module whose inputs show the parts; ``None`` in a layer that has none."""

    def check(self, block: Block, seen: Seen) -> None:
        """Refuse an MLP that is not made of these parts."""

    def shares(self, block: Block, seen: Seen, towards: Tensor) -> Tensor:
        """[b, width] what each part wrote along ``towards`` [b, t, d], summed over positions."""


@dataclass(frozen=True, slots=True)
class Neurons:
    """The inputs of each MLP's last linear map.

    Attributes:
        parts: the model.
    """

    parts: Anatomy

    @property
    def width(self) -> int:
        """Neurons in a layer."""
        widths = {linear_weight(self.module(block)).shape[1] for block in self.parts.blocks}
        if len(widths) > 1:
            raise UnsupportedArchitecture(f"{_name(self.parts)}: layers have different numbers of neurons, {widths}")
        return int(widths.pop())

    def module(self, block: Block) -> nn.Module:
        """The last linear map."""
        for name in _DOWN:
            if isinstance(module := getattr(block.mlp, name, None), nn.Linear | Conv1D):
                return module
        hint = "; it has experts: use level='experts'" if hasattr(block.mlp, "experts") else ""
        raise UnsupportedArchitecture(
            f"{_name(self.parts)}: the MLP of layer {block.index}, a {type(block.mlp).__name__}, has no last linear "
            f"map among {', '.join(_DOWN)}, so its neurons are not known{hint}"
        )

    def check(self, block: Block, seen: Seen) -> None:
        """The MLP writes what its last linear map returns, and nothing else."""
        _require_equal(self.parts, block, seen.output, seen.raw, "its last linear map")

    def values(self, block: Block, seen: Seen) -> Tensor:
        """[b, t, width] activations, in front of a fixed linear map to the stream."""
        return widen(seen.inputs[0]) * scale(block, seen)

    def shares(self, block: Block, seen: Seen, towards: Tensor) -> Tensor:
        """Activation times what the neuron's output weights write along ``towards``."""
        along = towards @ linear_weight(self.module(block)).detach().to(towards.dtype)
        return (self.values(block, seen) * along).sum(1)


@dataclass(frozen=True, slots=True)
class Experts:
    """The routed experts of mixture blocks: each with its routing weight, the norm behind the block included.

    Attributes:
        parts: the model.
    """

    parts: Anatomy

    @property
    def width(self) -> int:
        """Experts in a layer."""
        modules = [module for block in self.parts.blocks if (module := self.module(block)) is not None]
        numbers = {int(module.num_experts) for module in modules}  # type: ignore[arg-type]
        if len(numbers) != 1:
            seen = f"mixtures of {sorted(numbers)} experts" if numbers else "no mixture of experts"
            raise UnsupportedArchitecture(
                f"{_name(self.parts)} has {seen}; experts are told apart where every mixture has the same number"
            )
        return numbers.pop()

    def module(self, block: Block) -> nn.Module | None:
        """The experts, called with hidden states, chosen experts and their weights."""
        experts = getattr(block.mlp, "experts", None)
        return experts if isinstance(experts, nn.Module) and hasattr(experts, "num_experts") else None

    def check(self, block: Block, seen: Seen) -> None:
        """Every expert called alone, with its weight, gives its summand."""
        if len(seen.inputs) != 3:
            raise UnsupportedArchitecture(
                f"{_name(self.parts)}: the experts of layer {block.index} are not called with hidden states, the "
                "chosen experts and their weights, so their shares are not known"
            )
        total = torch.zeros_like(seen.inputs[0])
        for _, tokens, written in self.written(block, seen):
            total[tokens] += written
        _require_equal(self.parts, block, total, seen.output, "its experts called one by one")

    def written(self, block: Block, seen: Seen) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Expert, the tokens that chose it, and [tokens, d] what it wrote for them."""
        module = self.module(block)
        assert module is not None
        hidden, chosen, weights = seen.inputs
        for expert in torch.unique(chosen).tolist():
            tokens, slot = torch.where(chosen == expert)
            weight = weights[tokens, slot, None]
            with torch.no_grad():
                written = module.forward(hidden[tokens], torch.full_like(tokens, expert)[:, None], weight)
            yield expert, tokens, written

    def shares(self, block: Block, seen: Seen, towards: Tensor) -> Tensor:
        """What each expert wrote along ``towards``."""
        rows, length = towards.shape[:2]
        along = (towards * scale(block, seen)).flatten(0, 1)
        found = towards.new_zeros(rows, self.width)
        for expert, tokens, written in self.written(block, seen):
            values = (widen(written) * along[tokens]).sum(-1)
            found[:, expert].index_add_(0, tokens // length, values)
        return found

    def routing(self, seen: Seen, batch: Batch) -> Tensor:
        """[experts] routing weight of each expert, summed over the batch's real tokens."""
        _, chosen, weights = seen.inputs
        length = batch.clean.shape[1]
        real = (torch.arange(length, device=chosen.device)[None] <= batch.last[:, None]).flatten()[:, None]
        total = torch.zeros(self.width, dtype=torch.float64, device=chosen.device)
        return total.index_add_(0, chosen.flatten(), (weights.double() * real).flatten())


@dataclass(slots=True)
class MlpHooks:
    """Hooks that keep what one run shows of every MLP.

    Attributes:
        interior: how MLPs come apart.
        seen: per layer.
    """

    interior: Interior
    seen: dict[int, Seen] = field(default_factory=dict)

    def handles(self, blocks: tuple[Block, ...]) -> list[Any]:
        """Register."""
        handles = []
        for block in blocks:
            module = self.interior.module(block)
            if module is None:
                continue
            seen = self.seen.setdefault(block.index, Seen())
            handles.append(module.register_forward_hook(_keep_inside(seen)))
            handles.append(block.mlp.register_forward_hook(_keep_raw(seen)))
        return handles


def scale(block: Block, seen: Seen) -> Tensor:
    """[b, t, 1] or a scalar: 1 / sigma of the norm behind an MLP."""
    assert seen.raw is not None
    if block.mlp_post_norm is None:
        return torch.ones((), device=seen.raw.device)
    return block.mlp_post_norm.normalise(widen(seen.raw))[1]


def _keep_inside(seen: Seen) -> Any:
    def keep(_module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        inputs = tuple(value.detach() for value in args if isinstance(value, Tensor))
        if len(inputs) == 3:  # experts take one row a token
            inputs = tuple(value.flatten(0, -2) for value in inputs)
        seen.inputs, seen.output = inputs, output_tensor(output).detach()

    return keep


def _keep_raw(seen: Seen) -> Any:
    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        seen.raw = output_tensor(output).detach()

    return keep


def _require_equal(parts: Anatomy, block: Block, found: Tensor | None, whole: Tensor | None, what: str) -> None:
    assert found is not None
    assert whole is not None
    error = float((found.flatten() - whole.flatten()).norm() / whole.norm())
    if not error < TOLERANCE.get(whole.dtype, 5e-2):
        raise UnsupportedArchitecture(
            f"{_name(parts)}: the MLP of layer {block.index}, a {type(block.mlp).__name__}, does not write what {what} "
            f"return (relative error {error:.2g}), so its score cannot be shared out"
        )


def _name(parts: Anatomy) -> str:
    return type(parts.model).__name__
