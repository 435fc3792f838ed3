"""The components of a model whose weights are told apart, and where in its modules each of them is.

A *site* is a module whose output is linear in its own weights: a linear map, an embedding, a norm's gain and bias.
What its change contributes is one product more in the forward pass, prompt by prompt and position by position, and is
divided by its outputs (queries, keys, values, halves of a fused MLP) or inputs (the heads in front of an output
projection). Any other parameter (experts, routers, sinks) is a *gate*: a factor of its own switches its change on.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from checkpoints.model.anatomy import Anatomy, Block, anatomy
from checkpoints.model.norms import Norm, read_norm
from checkpoints.model.projections import Projection, linear_weight

Form = Literal["outputs", "inputs", "lookup", "norm"]
_SHORT = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down", "gate_up_proj": "gate_up"}
_ROUTERS = ("gate", "router")


@dataclass(frozen=True, slots=True)
class Component:
    """One part of a model.

    Attributes:
        name: ``a1.h2.q``, ``a1.kv0.v``, ``m3.down``, ``embedding``; heads are called as everywhere.
        kind: what parts of other layers it is alike: the name without layer and head.
        layer: its layer; ``None`` outside the layers.
    """

    name: str
    kind: str
    layer: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """A module whose output is linear in its own weights.

    Attributes:
        module: where it is.
        form: what kind of map it is, and whether its outputs or its inputs are divided among components.
        weight, bias: names of its parameters; ``None`` where it has none.
        labels: [features] which component each output or input belongs to.
        bias_component: whose the bias is, where inputs are divided: a bias belongs to none of them.
        norm: its closed form, of a norm.
    """

    module: nn.Module
    form: Form
    weight: str
    bias: str | None
    labels: Tensor
    bias_component: int
    norm: Norm | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Gate:
    """A parameter of no site, divided along its first axis.

    Attributes:
        weight: its name.
        labels: [first axis] which component each slice belongs to.
    """

    weight: str
    labels: Tensor


@dataclass(slots=True)
class Components:
    """All components of a model, in the order of its modules, and where they are."""

    parts: Anatomy
    named: dict[str, Component] = field(default_factory=dict)
    sites: list[Site] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)

    @property
    def all(self) -> tuple[Component, ...]:
        """In order; a component's place is its label in sites and gates."""
        return tuple(self.named.values())

    def place(self, name: str, layer: int | None = None, kind: str | None = None) -> int:
        """The place of a component, which is new the first time it is asked for."""
        if name not in self.named:
            self.named[name] = Component(name, kind or name, layer)
        return list(self.named).index(name)


def components_of(model: PreTrainedModel) -> Components:
    """The components of a decoder.

    Raises:
        UnsupportedArchitecture: its parts are not recognised; the message says which.
    """
    found = Components(anatomy(model))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    roles = dict(_projections(found.parts))
    for path, module in model.named_modules():
        own = {key: names[id(value)] for key, value in module.named_parameters(recurse=False)}
        if not own:
            continue
        where = _where(found.parts, path, module)
        if (site := _site(found, where, module, own, roles)) is not None:
            found.sites.append(site)
        else:
            found.gates += [_gate(found, where, key, name, module) for key, name in own.items()]
    return found


@dataclass(frozen=True, slots=True)
class _Where:
    """Where a module stands: what its components' names begin with (``a1``), its own name there, its layer."""

    front: str
    rest: str
    block: Block | None

    @property
    def layer(self) -> int | None:
        """Its layer; ``None`` outside the layers."""
        return None if self.block is None else self.block.index

    @property
    def letter(self) -> str:
        """The front without the layer's number."""
        return self.front.rstrip("0123456789")

    def names(self, own: str) -> tuple[str, int | None, str]:
        """Name, layer and kind of one of its components."""
        name, kind = (".".join(filter(None, (front, own))) for front in (self.front, self.letter))
        return name, self.layer, kind


def _where(parts: Anatomy, path: str, module: nn.Module) -> _Where:
    outside = {
        id(parts.embedding): "embedding",
        id(parts.unembedding): "unembedding",
        id(parts.final_norm.module): "final norm",
    }
    if id(module) in outside:
        return _Where(outside[id(module)], "", None)
    for block in parts.blocks:
        for letter, part in (("a", block.attention), ("m", block.mlp)):
            inside = next((name for name, child in part.named_modules() if child is module), None)
            if inside is not None:
                return _Where(f"{letter}{block.index}", inside, block)
        norms = {"a": block.attention_norm, "m": block.mlp_norm}
        posts = {"a": block.attention_post_norm, "m": block.mlp_post_norm}
        for places, name in ((norms, "norm"), (posts, "post-norm")):
            for letter, norm in places.items():
                if norm is not None and norm.module is module:
                    return _Where(f"{letter}{block.index}", name, block)
        inside = next((name for name, child in block.module.named_modules() if child is module), None)
        if inside is not None:
            return _Where(f"layer{block.index}", inside, block)
    return _Where(path, "", None)


def _projections(parts: Anatomy) -> Iterator[tuple[int, tuple[tuple[str, Projection], ...]]]:
    """Module -> its heads' parts of the queries, keys and values."""
    for block in parts.blocks:
        found: dict[int, list[tuple[str, Projection]]] = {}
        for letter, projection in (("q", block.q), ("k", block.k), ("v", block.v)):
            found.setdefault(id(projection.module), []).append((letter, projection))
        yield from ((module, tuple(roles)) for module, roles in found.items())


def _site(
    found: Components,
    where: _Where,
    module: nn.Module,
    own: Mapping[str, str],
    roles: Mapping[int, tuple[tuple[str, Projection], ...]],
) -> Site | None:
    """The site that a module is; ``None`` for a module that computes something else."""
    weight, bias = own.get("weight"), own.get("bias")
    if weight is None or set(own) - {"weight", "bias"}:
        return None
    if _is_linear(module):
        rows, columns = linear_weight(module).shape
        block = where.block
        if block is not None and module is block.o:
            labels = torch.tensor(
                [found.place(*_of_head(where, f"h{head}.o", "o")) for head in range(block.q.heads)]
            ).repeat_interleave(columns // block.q.heads)
            other = int(labels[0]) if bias is None else found.place(*where.names("o.bias"))
            return Site(module, "inputs", weight, bias, labels, other)
        if id(module) in roles:
            labels = _head_labels(found, where, rows, roles[id(module)])
        else:
            labels = _output_labels(found, where, rows)
        return Site(module, "outputs", weight, bias, labels, int(labels[0]))
    if _is_lookup(module):
        place = found.place(*where.names(where.rest))
        width = int(getattr(module, "weight").shape[1])  # noqa: B009
        return Site(module, "lookup", weight, None, torch.full((width,), place), place)
    gain = getattr(module, "weight")  # noqa: B009
    norm = read_norm(module, gain.numel()) if gain.ndim == 1 and not list(module.children()) else None
    if norm is None:
        return None
    place = found.place(*where.names(where.rest))
    return Site(module, "norm", weight, bias, torch.full((gain.numel(),), place), place, norm)


def _is_linear(module: nn.Module) -> bool:
    """A linear map that computes what its type says, and nothing besides."""
    plain = type(module).forward in (nn.Linear.forward, Conv1D.forward)
    return isinstance(module, nn.Linear | Conv1D) and plain


def _is_lookup(module: nn.Module) -> bool:
    """An embedding, perhaps one that multiplies by a fixed number."""
    return isinstance(module, nn.Embedding) and (
        type(module).forward is nn.Embedding.forward or hasattr(module, "embed_scale")
    )


def _head_labels(found: Components, where: _Where, rows: int, roles: tuple[tuple[str, Projection], ...]) -> Tensor:
    """[rows] the head's part each output belongs to; those of no head (a rotary part of all) to the module itself."""
    block = where.block
    assert block is not None
    labels = torch.full((rows,), -1)
    for letter, projection in roles:
        shared = letter != "q" and projection.heads != block.q.heads
        for head, own in enumerate(projection.rows):
            name = f"{'kv' if shared else 'h'}{head}.{letter}"
            labels[own] = found.place(*_of_head(where, name, letter))
    if bool((labels < 0).any()):
        labels[labels < 0] = found.place(*where.names(where.rest))
    return labels


def _of_head(where: _Where, own: str, letter: str) -> tuple[str, int | None, str]:
    name, layer, _ = where.names(own)
    return name, layer, letter


def _output_labels(found: Components, where: _Where, rows: int) -> Tensor:
    """[rows] the component of each output of any other linear map; gate and up are fused half and half."""
    path, _, last = where.rest.removesuffix(".wg").rpartition(".")  # HunYuan's router is a map inside its gate
    if last == "gate_up_proj":
        halves = [found.place(*where.names(".".join(filter(None, (path, part))))) for part in ("gate", "up")]
        return torch.tensor(halves).repeat_interleave(rows // 2)
    router = where.letter == "m" and last in _ROUTERS
    short = "router" if router else _SHORT.get(last, last)
    return torch.full((rows,), found.place(*where.names(".".join(filter(None, (path, short))))))


def _gate(found: Components, where: _Where, key: str, name: str, module: nn.Module) -> Gate:
    parameter: Tensor = getattr(module, key)
    size = parameter.shape[0] if parameter.ndim else 1
    short = _SHORT.get(key, key)
    if where.letter == "m" and where.rest.rpartition(".")[2] == "experts" and parameter.ndim > 1:
        places = [found.place(*_of_head(where, f"e{expert}.{short}", f"expert {short}")) for expert in range(size)]
        return Gate(name, torch.tensor(places))
    if where.block is not None and where.letter == "a" and size == where.block.q.heads and parameter.ndim == 1:
        places = [found.place(*_of_head(where, f"h{head}.{short}", short)) for head in range(size)]
        return Gate(name, torch.tensor(places))
    rest = where.rest
    if where.letter == "m" and rest.rpartition(".")[2] in _ROUTERS:
        rest = "router"
    else:
        rest = ".".join(filter(None, (rest, "" if key == "weight" else short)))
    return Gate(name, torch.full((size,), found.place(*where.names(rest))))
