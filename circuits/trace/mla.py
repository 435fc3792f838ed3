"""Queries, keys and values as the attention function gets them, for attention whose keys no single projection makes.

In multi-head latent attention the rotary part of the keys is one for all heads, so what one head's keys receive shows
only behind the attention function's door. It is watched there, under the model's own implementation.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from checkpoints.errors import UnsupportedArchitecture
from checkpoints.model.anatomy import Block
from checkpoints.model.attention import HANDLED, Handler, handled, handler, handler_in_force
from checkpoints.model.projections import linear_weight

States = tuple[Tensor, Tensor, Tensor]
Watcher = Callable[[Tensor, Tensor, Tensor], States]


@dataclass(slots=True)
class LatentTrace:
    """What one layer of latent attention left behind.

    Attributes:
        q_down: [b, t, rank] latent of the queries, before its norm; ``None`` where they have none.
        kv_down: [b, t, rank + rotary] latent of keys and values, before its norm, and the rotary part of the keys.
        query, key, value: [b, heads, t, ...] as the attention function gets them.
    """

    q_down: Tensor | None = None
    kv_down: Tensor = field(init=False)
    query: Tensor = field(init=False)
    key: Tensor = field(init=False)
    value: Tensor = field(init=False)

    def watch(self, query: Tensor, key: Tensor, value: Tensor) -> States:
        """Keep the states."""
        self.query, self.key, self.value = query, key, value
        return query, key, value


class _Stop(Exception):
    """The states are known; the rest of the attention is not wanted."""


@dataclass(frozen=True, slots=True)
class _Watched:
    """Shows states to their watchers, then has the attention computed as it would have been.

    Attributes:
        watchers: by attention module.
        inner: the implementation that the model ran under, and the handler in force, where it is a handled one.
    """

    watchers: Mapping[nn.Module, Watcher]
    inner: str
    handler: Handler | None

    def mask(self, *args: Any, **options: Any) -> Any:
        if self.inner == HANDLED and self.handler is not None:
            return self.handler.mask(*args, **options)
        return ALL_MASK_ATTENTION_FUNCTIONS[self.inner](*args, **options)

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
    ) -> Any:
        watcher = self.watchers.get(module)
        if watcher is not None:
            query, key, value = watcher(query, key, value)
        if self.inner == HANDLED and self.handler is not None:
            return self.handler.attend(module, query, key, value, attention_mask, **options)
        eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        function = ALL_ATTENTION_FUNCTIONS.get_interface(self.inner, eager)
        return function(module, query, key, value, attention_mask, **options)


@contextmanager
def watching(model: PreTrainedModel, watchers: Mapping[nn.Module, Watcher]) -> Iterator[None]:
    """Let each attention module's watcher see, and replace, the states it hands to the attention function."""
    if not watchers:
        yield
        return
    inner = model.config.get_text_config()._attn_implementation
    with handled(model, _Watched(watchers, inner, handler_in_force())):
        yield


def states_of(attention: nn.Module, hidden: Tensor, options: Mapping[str, Any]) -> States:
    """The states that an attention module makes of [b, t, d], inside a `watching` block; it is left right after."""
    found: list[States] = []
    watched = handler_in_force()
    assert isinstance(watched, _Watched)

    def stop(query: Tensor, key: Tensor, value: Tensor) -> States:
        found.append((query, key, value))
        raise _Stop

    with handler(replace(watched, watchers={attention: stop})), suppress(_Stop):
        attention.forward(hidden_states=hidden, **options)
    return found[0]


@torch.no_grad()
def check_latent(model: PreTrainedModel, block: Block, seen: LatentTrace, q: Tensor, kv: Tensor) -> None:
    """Refuse attention that makes its states of the latents in another way than ``up(norm(down(x)))``.

    Args:
        model: named in the message.
        block: a layer with a latent path.
        seen: what it showed.
        q: output of the last projection of queries.
        kv: output of the last projection of keys and values.

    Raises:
        UnsupportedArchitecture: a state is not what it is made of here.
    """
    latent = block.latent
    assert latent is not None
    kv = kv.flatten(1, -2)
    key, value = (x.select(kv).transpose(1, 2) for x in (block.k, block.v))
    plain = key.shape[-1]
    remade = _up(block.k.module, latent.kv_norm(seen.kv_down[..., : latent.rank]))
    pairs = [
        (seen.key[..., :plain], key, "keys"),
        (seen.key[..., plain:], seen.key[:, :1, :, plain:].expand_as(seen.key[..., plain:]), "keys' rotary part"),
        (seen.value, value, "values"),
        (kv, remade, "latent of keys and values"),
    ]
    if latent.q_norm is not None and seen.q_down is not None:
        pairs.append((q, _up(block.q.module, latent.q_norm(seen.q_down)), "latent of queries"))
    for found, expected, what in pairs:
        same = found.shape == expected.shape
        error = float((found - expected).norm() / expected.norm()) if same else float("nan")
        if not error < (1e-3 if kv.dtype in (torch.float32, torch.float64) else 5e-2):
            raise UnsupportedArchitecture(
                f"{type(model).__name__}: the {what} of layer {block.index} are not made as in multi-head latent "
                f"attention (relative error {error:.2g}); its edges cannot be scored exactly"
            )


def _up(module: nn.Module, latent: Tensor) -> Tensor:
    weight, bias = linear_weight(module), getattr(module, "bias", None)
    return nn.functional.linear(latent.to(weight.dtype), weight, bias)
