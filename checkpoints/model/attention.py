"""What computes a model's attention for as long as a block of code lasts.

transformers asks a registered function for every attention call. One function is registered here, once, and it asks
the handler in force: rows of attention beside the fused output, another backward pass, states that are watched.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from checkpoints.errors import UnsupportedArchitecture

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

# No "sdpa" in the name: transformers would then apply its own checks and reject softcap and sinks.
HANDLED = "circuit_drift"


class Handler(Protocol):
    """Computes attention calls, in the calling convention of transformers."""

    def attend(
        self, module: "nn.Module", query: "Tensor", key: "Tensor", value: "Tensor", attention_mask: Any, **options: Any
    ) -> "tuple[Tensor, Tensor | None]":
        """One call.

        Args:
            module: the attention module that calls.
            query: [batch, heads, queries, d], after rotary embedding and QK-norm.
            key: [batch, KV heads, keys, d], not repeated.
            value: [batch, KV heads, keys, d of values].
            attention_mask: what `mask` built.
            options: dropout, scaling, softcap, s_aux (learned sinks), ...

        Returns:
            [batch, queries, heads, d of values], and weights or ``None``.
        """

    def mask(self, *args: Any, **options: Any) -> Any:
        """The mask that `attend` is given, built from what transformers knows of the sequence."""


_handler: ContextVar[Handler | None] = ContextVar("attention handler", default=None)


def handler_in_force() -> Handler | None:
    """The handler of the innermost block; ``None`` outside any."""
    return _handler.get()


@contextmanager
def handler(handler: Handler) -> Iterator[None]:
    """Put a handler in force for models that are inside `handled` already."""
    token = _handler.set(handler)
    try:
        yield
    finally:
        _handler.reset(token)


@contextmanager
def handled(model: "PreTrainedModel", by: Handler) -> Iterator[None]:
    """Send a model's attention calls to a handler while the block runs, then put its own implementation back.

    Raises:
        UnsupportedArchitecture: the model does not use transformers' attention interface.
    """
    _register()
    with handler(by), attention_implementation(model, HANDLED):
        yield


@contextmanager
def attention_implementation(model: "PreTrainedModel", name: str) -> Iterator[None]:
    """Run a model under another attention implementation, then put its own back, part by part.

    Args:
        model: the model and the models inside it.
        name: as in ``attn_implementation=``, or one that was registered.

    Raises:
        UnsupportedArchitecture: the model does not use transformers' attention interface.
    """
    from transformers import PreTrainedModel

    if not model._can_set_attn_implementation():
        raise UnsupportedArchitecture(
            f"{type(model).__name__} does not use transformers' attention interface (ALiBi families such as "
            "BLOOM, MPT and Falcon have attention code of their own): its rows cannot be read"
        )
    parts = (part for part in model.modules() if isinstance(part, PreTrainedModel))
    configs = {id(part.config): part.config for part in parts}
    previous = [(config, config._attn_implementation) for config in configs.values()]
    try:
        model.set_attn_implementation(name)
        yield
    finally:
        for config, before in previous:
            config._attn_implementation = before


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(HANDLED, _attend)
    AttentionMaskInterface.register(HANDLED, _mask)


def _attend(*args: Any, **options: Any) -> Any:
    return _in_force().attend(*args, **options)


def _mask(*args: Any, **options: Any) -> Any:
    return _in_force().mask(*args, **options)


def _in_force() -> Handler:
    handler = _handler.get()
    if handler is None:
        raise UnsupportedArchitecture(
            f"a model under attention {HANDLED!r} ran outside the block that computes it; load it anew"
        )
    return handler
