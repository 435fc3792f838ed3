"""Weights that bitsandbytes holds in four or eight bits a number: which they are, and what they stand for."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from checkpoints.errors import UnsupportedArchitecture

if TYPE_CHECKING:
    from torch import Tensor, nn

PACKED = ("Params4bit", "Int8Params")
ROUNDS = "Int8Params"


def is_packed(module: "nn.Module") -> bool:
    """Whether a module's weight is held in four or eight bits."""
    return type(getattr(module, "weight", None)).__name__ in PACKED


def rounds_inputs(module: "nn.Module") -> bool:
    """Whether a module rounds what it is given to eight bits, so that it is no linear map and has no gradient."""
    return type(getattr(module, "weight", None)).__name__ == ROUNDS


def unpacked(module: "nn.Module") -> "Tensor":
    """The weight that a packed one stands for, [out, in], made anew at each call.

    Raises:
        UnsupportedArchitecture: bitsandbytes has laid a four-bit weight out anew, through which no gradient goes.
    """
    import bitsandbytes

    weight: Any = module.weight
    if not rounds_inputs(module):
        if getattr(weight.quant_state, "packing_format_for_cpu", False):
            raise UnsupportedArchitecture(
                f"a {type(module).__name__} was laid out anew by bitsandbytes on a CPU, in a pass without gradients: "
                "no gradient goes through it; load the model by checkpoints.open_checkpoint(FOLDER).load(dtype='nf4')"
            )
        found: Tensor = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
        return found
    state: Any = getattr(module, "state", None)
    scales = weight.SCB if getattr(state, "SCB", None) is None else state.SCB
    wide: Tensor = bitsandbytes.functional.int8_vectorwise_dequant(weight.data, scales)
    return wide


def require_plain(model: "nn.Module", what: str) -> None:
    """Refuse a model whose weights are held in few bits, where they are to change.

    Args:
        model: with plain or quantised weights.
        what: changes them, for the message.

    Raises:
        UnsupportedArchitecture: says that what is added would be rounded away, and what to do.
    """
    if getattr(model, "is_quantized", False) or any(packed_modules(model)):
        raise UnsupportedArchitecture(
            f"{what} changes weights, and those of this {type(model).__name__} are quantised: they would be rounded to "
            "their grid again; take the unquantised checkpoint, in dtype float32 or bfloat16"
        )


def keep_gradients(model: "nn.Module") -> None:
    """Keep bitsandbytes from laying four-bit weights out anew in the first pass without gradients, as on some CPUs."""
    for _, module in packed_modules(model):
        own: Any = module
        if hasattr(own, "support_avx512bf16_for_cpu"):
            own.support_avx512bf16_for_cpu = False


def packed_modules(model: "nn.Module") -> "Iterator[tuple[str, nn.Module]]":
    """Name and module of every packed weight of a model."""
    return ((name, module) for name, module in model.named_modules() if is_packed(module))
