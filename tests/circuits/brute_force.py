"""Edge gradients by brute force: every reader gets its own copy of the stream, one displaced at a time."""

from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

import torch
from circuit_families import residual_parts
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from checkpoints.model.anatomy import Anatomy, Block, anatomy
from circuits.facts.facts import FactSet

STEP = 1e-4
Reader = tuple[int, str, int]


def metric(model: PreTrainedModel, ids: list[int], answer: int, wrong: int) -> float:
    """Logit difference after a prompt."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
    return float(logits[answer] - logits[wrong])


@contextmanager
def displaced(parts: Anatomy, reader: Reader, shift: torch.Tensor):
    """Add ``shift`` [t, d] to the private stream of one reader: (layer, q|k|v|mlp|logits, head)."""
    layer, kind, head = reader
    handles: list[Any] = []
    if kind == "logits":
        handles.append(parts.final_norm.module.register_forward_pre_hook(lambda _m, args: (args[0] + shift,)))
    else:
        block = parts.blocks[layer]
        stream: dict[str, torch.Tensor] = {}
        handles.append(
            block.module.register_forward_pre_hook(
                lambda _m, args, kwargs: stream.update(x=args[0] if args else kwargs["hidden_states"]), with_kwargs=True
            )
        )
        if kind == "mlp":
            handles += _mlp_hooks(block, stream, shift)
        elif block.latent is not None:
            handles += _state_hooks(parts.model, block, kind, head, stream, shift)
        else:
            projection = getattr(block, kind)
            handles.append(projection.module.register_forward_hook(_head_hook(block, projection, head, stream, shift)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _head_hook(block: Block, projection: Any, head: int, stream: dict[str, torch.Tensor], shift: torch.Tensor):
    def hook(module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        moved = stream["x"] + shift
        if block.attention_norm is not None:
            moved = block.attention_norm.module(moved)
        other = type(module).forward(module, moved)
        output = output.clone()
        output[..., projection.rows[head]] = other[..., projection.rows[head]]
        return output

    return hook


_ORACLE: dict[str, Any] = {}


def _oracle_attention(module: Any, *states: Any, **options: Any) -> Any:
    """Stock attention; while states are asked for it notes them, and then swaps one head's in."""
    if _ORACLE.get("noting"):
        _ORACLE["noted"] = states[:3]
    elif module is _ORACLE["module"]:
        states = list(states)
        changed = states[_ORACLE["place"]].clone()
        changed[:, _ORACLE["head"]] = _ORACLE["noted"][_ORACLE["place"]][:, _ORACLE["head"]]
        states[_ORACLE["place"]] = changed
    return sdpa_attention_forward(module, *states, **options)


def _state_hooks(
    model: Any, block: Block, kind: str, head: int, stream: dict[str, torch.Tensor], shift: Any
) -> list[Any]:
    """One head's query, key or value as the stock attention makes it of a displaced stream."""
    AttentionInterface.register("oracle", _oracle_attention)
    AttentionMaskInterface.register("oracle", sdpa_mask)
    before = model.config._attn_implementation
    model.set_attn_implementation("oracle")
    _ORACLE.update(module=block.attention, place="qkv".index(kind), head=head, noting=False)

    def note(module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        _ORACLE["noting"] = True
        moved = block.attention_norm.module.forward(stream["x"] + shift)
        module.forward(**{**kwargs, "hidden_states": moved, "past_key_values": None})
        _ORACLE["noting"] = False

    class Restore:
        def remove(self) -> None:
            model.set_attn_implementation(before)

    return [block.attention.register_forward_pre_hook(note, with_kwargs=True), Restore()]


def _mlp_hooks(block: Block, stream: dict[str, torch.Tensor], shift: torch.Tensor) -> list[Any]:
    if not block.parallel:
        target = block.mlp if block.mlp_norm is None else block.mlp_norm.module
        return [target.register_forward_pre_hook(lambda _m, args: (args[0] + shift, *args[1:]))]

    def read(_module: Any, _args: Any) -> Any:
        return (block.mlp_norm.module.forward(stream["x"] + shift),)

    return [block.mlp.register_forward_pre_hook(read)]


def eap_edges(model: PreTrainedModel, facts: FactSet, edges: Sequence[tuple[int, Reader]]) -> list[list[float]]:
    """EAP scores [edges][facts] of edges (writer row, reader), by central differences at the clean run."""
    parts = anatomy(model)
    scores: list[list[float]] = [[] for _ in edges]
    for clean, corrupt, answer, wrong in zip(facts.clean, facts.corrupt, facts.answer_id, facts.wrong_id, strict=True):
        written = zip(residual_parts(model, list(clean)), residual_parts(model, list(corrupt)), strict=True)
        changes = [after - before for before, after in written]
        for found, (row, reader) in zip(scores, edges, strict=True):
            ends = []
            for sign in (1, -1):
                with displaced(parts, reader, sign * STEP * changes[row]):
                    ends.append(metric(model, list(clean), int(answer), int(wrong)))
            found.append((ends[0] - ends[1]) / (2 * STEP))
    return scores
