"""Rotary embeddings whose frequencies depend on how long the longest sequence of a pass is.

Under LongRoPE (arXiv 2402.13753; Phi-3) every position turns by other angles once a sequence is longer than the
original context, under dynamic NTK scaling with every length beyond it. A short sequence in one pass with a long one,
or keys that were kept while it was short, then give other numbers than the sequence alone. Such passes are kept apart.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    RotaryState = tuple[torch.nn.Module, dict[str, torch.Tensor | None], dict[str, Any]]

CACHED = "max_seq_len_cached"
"""How long a text a rotary module is made for, in transformers' words."""


def depends_on_length(model: "PreTrainedModel") -> bool:
    """Whether a token's numbers depend on how many tokens follow it, so that no pass may go on from another's keys."""
    return bool(_scalings(model))


def of_one_regime(model: "PreTrainedModel", lengths: Sequence[int]) -> Iterator[list[int]]:
    """The places of sequences that may share a pass, each as if it were alone.

    Args:
        model: any model.
        lengths: tokens of each sequence.

    Yields:
        places, in order; all of them at once where no length matters.
    """
    scalings = _scalings(model)
    found: dict[tuple[int, ...], list[int]] = {}
    for place, length in enumerate(lengths):
        found.setdefault(tuple(_regime(scaling, length) for scaling in scalings), []).append(place)
    yield from found.values()


def forget_lengths(model: "PreTrainedModel") -> None:
    """Have dynamic scaling begin anew in every pass, where transformers goes on from the longest one so far."""
    for module in model.modules():
        if "dynamic" in str(getattr(module, "rope_type", "")) and hasattr(module, "original_max_seq_len"):
            module.register_forward_pre_hook(_begin_anew)


def rotary_states(model: "torch.nn.Module") -> "list[RotaryState]":
    """What the rotary modules hold that depends on the texts they have seen; see `put_back`."""
    return [
        (module, dict(module._buffers), {name: value for name, value in vars(module).items() if name.endswith(CACHED)})
        for module in model.modules()
        if hasattr(module, "original_max_seq_len")
    ]


def put_back(states: "list[RotaryState]") -> None:
    """Give rotary modules back what they held, the same tensors."""
    for module, buffers, cached in states:
        module._buffers.update(buffers)
        for name, value in cached.items():
            setattr(module, name, value)


def context_of(config: "PreTrainedConfig") -> int | None:
    """How many tokens a model of a config can read; None where its config names no bound.

    Dynamic NTK scaling begins beyond the positions of the config, and reads ``factor`` times as many.
    """
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if positions is None:
        return None
    factors = [factor for kind, factor in _factors(text) if "dynamic" in kind]
    return int(positions * max(1.0, *factors)) if factors else int(positions)


def _begin_anew(rotary: Any, _inputs: Any) -> None:
    for name in [name for name, _ in rotary.named_buffers() if name.endswith("original_inv_freq")]:
        own = name.replace("original_", "")
        rotary.register_buffer(own, getattr(rotary, name).to(getattr(rotary, own).device), persistent=False)
    for name in [name for name in vars(rotary) if name.endswith(CACHED)]:
        setattr(rotary, name, rotary.original_max_seq_len)


def _scalings(model: "PreTrainedModel") -> list[tuple[str, int]]:
    """(kind, original context) of every scaling of the model that depends on the length."""
    config = model.config.get_text_config()
    longest = int(getattr(config, "max_position_embeddings", 0) or 0)
    own_alpha = "hunyuan" in str(getattr(config, "model_type", ""))
    found = []
    for part in _parts(config):
        kind = str(part.get("rope_type", part.get("type", "")))
        if kind in ("longrope", "su"):
            found.append(("longrope", int(part.get("original_max_position_embeddings") or longest)))
        elif "dynamic" in kind and not (own_alpha and part.get("alpha")):  # which fixes it
            found.append(("dynamic", longest))
    return found


def _parts(config: "PreTrainedConfig") -> list[Mapping[str, Any]]:
    """The rotary parameters of a config: of all layers, then of each kind of layer."""
    given: Any = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return [given, *(part for part in given.values() if isinstance(part, Mapping))]


def _factors(config: "PreTrainedConfig") -> list[tuple[str, float]]:
    """(kind, factor) of every scaling that has one."""
    parts = [(str(part.get("rope_type", part.get("type", ""))), part.get("factor")) for part in _parts(config)]
    return [(kind, float(factor)) for kind, factor in parts if isinstance(factor, int | float)]


def _regime(scaling: tuple[str, int], length: int) -> int:
    kind, original = scaling
    if length <= original:
        return 0
    return 1 if kind == "longrope" else length
