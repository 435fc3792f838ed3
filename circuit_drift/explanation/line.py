"""The straight line from one checkpoint to another in the space of weights: theta(t) = A + t (B - A)."""

import math
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from checkpoints.errors import CheckpointMismatch, DriftError, UnsupportedArchitecture
from checkpoints.loading.lora import LowRank
from checkpoints.model.packed import require_plain
from circuit_drift.explanation.components import Components, Gate, Site, components_of

Step = Tensor | LowRank
"""B - A of one parameter, in full or as thin factors."""
_INERT = re.compile(
    r"_.*|.*(dropout|pdrop|token_ids?|initializer_range)|(output|summary)_.*|architectures|chunk_size_feed_forward|"
    r"(torch_)?dtype|id2label|label2id|initializer_.*|is_encoder_decoder|max_position_embeddings|model_type|"
    r"pretraining_tp|problem_type|quantization_config|return_dict|router_aux_loss_coef|tie_word_embeddings|"
    r"transformers_version|use_cache"
)
"""Fields of a config that change nothing of what weights compute, or are looked at elsewhere."""


@dataclass(slots=True)
class Line:
    """A model that stands somewhere between A and B.

    Attributes:
        model: its weights move; nothing requires a gradient.
        components: its parts.
        change: B - A of every parameter that differs, by name; as factors only of linear maps.
        at: where the model stands now, 0 = A, 1 = B.
    """

    model: PreTrainedModel
    components: Components
    change: Mapping[str, Step]
    at: float = 0.0

    def move(self, to: float) -> None:
        """Put the model's weights somewhere else on the line; each move rounds them once more."""
        if to == self.at:
            return
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                step = self.change.get(name)
                if isinstance(step, LowRank):
                    parameter.addmm_(step.left, step.right, alpha=to - self.at)
                elif step is not None:
                    parameter.add_(step, alpha=to - self.at)
        self.at = to

    @property
    def sites(self) -> Iterator[Site]:
        """Those whose weights differ."""
        return (site for site in self.components.sites if {site.weight, site.bias} & self.change.keys())

    @property
    def gates(self) -> Iterator[Gate]:
        """Those whose weights differ."""
        return (gate for gate in self.components.gates if gate.weight in self.change)

    @property
    def changed(self) -> tuple[int, ...]:
        """Places of the components whose weights differ."""
        places: set[int] = set()
        for site in self.sites:
            places |= _touched(site, self.change.get(site.weight), vector(self.change, site.bias))
        for gate in self.gates:
            moved = self.gated(gate.weight).reshape(len(gate.labels), -1).ne(0).any(1).cpu()
            places |= set(gate.labels[moved].tolist())
        return tuple(sorted(places))

    def gated(self, name: str) -> Tensor:
        """The change of a gate's parameter."""
        step = self.change[name]
        assert isinstance(step, Tensor)
        return step

    @contextmanager
    def patched(self, places: Collection[int], by: float) -> Iterator[dict[str, Tensor]]:
        """Move some components alone along the line by hooks, exactly, while the block runs.

        Args:
            places: of the components.
            by: how far: 1 puts those of B into A, -1 those of A into B.

        Yields:
            parameters that `run` is to take in place of the model's own.
        """
        handles, chosen = [], torch.tensor(sorted(places), dtype=torch.long)
        try:
            for site in self.sites:
                mask = torch.isin(site.labels, chosen)
                bias = bool(torch.isin(torch.tensor(site.bias_component), chosen))
                if bool(mask.any()) or bias:
                    handles.append(site.module.register_forward_hook(_Moved(self, site, mask, with_bias=bias, by=by)))
            given = {}
            for gate in self.gates:
                mask = torch.isin(gate.labels, chosen)
                if bool(mask.any()):
                    own, change = self.model.get_parameter(gate.weight), self.gated(gate.weight)
                    given[gate.weight] = own + by * change * _along_first(mask.to(change), change)
            yield given
        finally:
            for handle in handles:
                handle.remove()


def line_between(a: PreTrainedModel, b: PreTrainedModel, names: tuple[str, str] = ("A", "B")) -> Line:
    """The line between two models of one shape; B's memory becomes that of the difference, A's model moves.

    Args:
        a: where the line begins.
        b: where it ends.
        names: what errors call them.

    Raises:
        CheckpointMismatch: they differ in their parameters, shapes or in what their configs make of equal weights, or
            one ties what the other has apart.
        UnsupportedArchitecture: weights that lie on no line: quantised, in less than float32, or buffers that differ.
    """
    for model in (a, b):
        _require_exact(model)
    own, other = dict(a.named_parameters()), dict(b.named_parameters())
    if own.keys() != other.keys():
        odd = sorted(own.keys() ^ other.keys())
        tied = "; one ties its embedding and unembedding, the other has two" if _is_head(a, b, odd) else ""
        raise CheckpointMismatch(
            f"no line between {names[0]} and {names[1]}: only one of them has {odd[0]}{tied}; compare checkpoints of "
            "one run"
        )
    for name, parameter in own.items():
        if parameter.shape != other[name].shape:
            raise CheckpointMismatch(
                f"no line between {names[0]} and {names[1]}: {name} is {tuple(parameter.shape)} in {names[0]} and "
                f"{tuple(other[name].shape)} in {names[1]}; compare checkpoints of one shape"
            )
    _require_same_form(a, b, names)
    _require_same_buffers(a, b)
    components = components_of(a)
    change: dict[str, Step] = {}
    with torch.no_grad():
        for name, parameter in own.items():
            other[name].sub_(parameter.to(other[name].device))
            if bool(other[name].ne(0).any()):
                change[name] = other[name].detach()
    return Line(a, components, change)


def line_along(model: PreTrainedModel, change: Mapping[str, Step]) -> Line:
    """The line from a model along the change of some of its parameters.

    Raises:
        UnsupportedArchitecture: quantised weights, or parts that are not recognised.
        DriftError: less than float32.
    """
    _require_exact(model)
    components = components_of(model)
    linear = {site.weight for site in components.sites if site.form in ("outputs", "inputs")}
    full = {
        name: step.dense() if isinstance(step, LowRank) and name not in linear else step
        for name, step in change.items()
    }
    return Line(model, components, full)


def contribution(site: Site, x: Tensor, change: Mapping[str, Step], mask: Tensor | None, *, with_bias: bool) -> Tensor:
    """What a site's change adds to its output at an input: [..., outputs].

    Args:
        site: where.
        x: its input.
        change: B - A by name.
        mask: [features] which of its outputs, or inputs, to count; ``None`` = all.
        with_bias: whether the bias counts, where inputs are divided.
    """
    weight, bias = change.get(site.weight), vector(change, site.bias)
    keep = None if mask is None else mask.to(x.device)
    if site.form == "lookup":
        assert isinstance(weight, Tensor)
        return scaled_lookup(site, x, weight)
    if site.form == "norm":
        assert site.norm is not None
        x_hat = site.norm.normalise(x)[0]
        assert not isinstance(weight, LowRank)
        total = torch.zeros_like(x_hat) if weight is None else x_hat * weight
        return total if bias is None else total + bias
    flat = None if weight is None else _oriented(site, weight)
    if site.form == "inputs":
        inner = x if keep is None else x * keep
        total = inner @ flat.T if flat is not None else x.new_zeros((*x.shape[:-1], 1))
        return total + bias if bias is not None and with_bias else total
    total = x @ flat.T if flat is not None else x.new_zeros((*x.shape[:-1], 1))
    total = total if bias is None else total + bias
    return total if keep is None else total * keep


def vector(change: Mapping[str, Step], name: str | None) -> Tensor | None:
    """The change of a bias; ``None`` where it has none."""
    step = change.get(name or "")
    assert not isinstance(step, LowRank)
    return step


def pulled_back(site: Site, gradient: Tensor, weight: Step) -> Tensor:
    """The gradient at an output, carried to the input through the change alone: [..., inputs]."""
    return gradient @ _oriented(site, weight)


def scaled_lookup(site: Site, ids: Tensor, weight: Tensor) -> Tensor:
    """The change of an embedding's output, with the fixed number that some families multiply by."""
    scale: Any = getattr(site.module, "embed_scale", 1.0)
    return nn.functional.embedding(ids, weight) * (scale.to(weight) if isinstance(scale, Tensor) else scale)


def _oriented(site: Site, weight: Step) -> Step:
    """[out, in]."""
    return weight.T if isinstance(site.module, Conv1D) else weight


@dataclass(frozen=True, slots=True)
class _Moved:
    """A hook that adds what a site's change, or a part of it, would add."""

    line: Line
    site: Site
    mask: Tensor
    with_bias: bool
    by: float

    def __call__(self, _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        added = contribution(self.site, inputs[0], self.line.change, self.mask, with_bias=self.with_bias)
        return output + self.by * added.to(output.dtype)


def _touched(site: Site, weight: Step | None, bias: Tensor | None) -> set[int]:
    """The components of a site in which a number differs."""
    if site.form in ("lookup", "norm"):
        return {site.bias_component}
    found: set[int] = set()
    axis = 1 if site.form == "inputs" else 0
    if weight is not None:
        whole = weight.dense() if isinstance(weight, LowRank) else weight
        moved = whole.ne(0).any(axis if isinstance(site.module, Conv1D) else 1 - axis).cpu()
        found |= set(site.labels[moved].tolist())
    if bias is not None:
        moved = bias.ne(0).cpu()
        found |= {site.bias_component} if axis else set(site.labels[moved].tolist())
    return found


def _along_first(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.device).reshape(-1, *[1] * (like.ndim - 1)) if like.ndim else values[0].to(like.device)


def _require_exact(model: PreTrainedModel) -> None:
    require_plain(model, "moving along the line between two checkpoints")
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():
            raise UnsupportedArchitecture(
                f"{name} is quantised: weights on a grid lie on no straight line; explain the unquantised checkpoints"
            )
        if parameter.dtype.itemsize < 4:
            raise DriftError(
                f"the models were loaded in {str(parameter.dtype).removeprefix('torch.')}, in which the line between "
                "them is made of steps; load them with dtype float32"
            )


def _is_head(a: PreTrainedModel, b: PreTrainedModel, odd: list[str]) -> bool:
    heads = {id(m.weight) for m in (a.get_output_embeddings(), b.get_output_embeddings())}  # type: ignore[no-untyped-call]
    return any(id(model.get_parameter(name)) in heads for model in (a, b) for name in odd if _has(model, name))


def _has(model: PreTrainedModel, name: str) -> bool:
    return name in dict(model.named_parameters())


def _require_same_form(a: PreTrainedModel, b: PreTrainedModel, names: tuple[str, str]) -> None:
    """Equal weights make equal models: else a part of the change is the config's, which no line of weights holds."""
    own, other = (model.config.get_text_config().to_dict() for model in (a, b))
    for name in sorted(own.keys() & other.keys()):
        if not _INERT.fullmatch(name) and not _alike(own[name], other[name]):
            raise CheckpointMismatch(
                f"no line between {names[0]} and {names[1]}: {name} is {own[name]} in the config of {names[0]} and "
                f"{other[name]} in that of {names[1]}, so they differ even with equal weights; give both the same "
                "config to explain what the weights do"
            )


def _alike(one: Any, other: Any) -> bool:
    """Whether two values of configs say the same; some formats hold numbers in single precision."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[name], other[name]) for name in one)
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6)
    return bool(one == other)


def _require_same_buffers(a: PreTrainedModel, b: PreTrainedModel) -> None:
    """Buffers that files hold (biases by which experts are chosen) have no gradient, so no share is theirs."""
    own, other = a.state_dict(keep_vars=True), b.state_dict(keep_vars=True)
    for name in own.keys() - dict(a.named_parameters(remove_duplicate=False)).keys():
        if name not in other or not torch.equal(own[name], other[name].to(own[name].device)):
            raise UnsupportedArchitecture(
                f"{name} differs between the two models: it decides by comparison (which expert is taken) and has no "
                "gradient, so its share cannot be told; explain a pair that has it in common"
            )
