"""A head's direct contribution to the answer's logit, split by the token it reads: direct logit attribution by source.

For head h at the last prompt token, z_h = sum over s of A_h[s] v[s], so its contribution from source s is
A_h[s] (v[s] . u_h), with u_h = W_O^h applied to the answer's direction behind the final norm at its own scale. The
split is checked on every pass: a model whose z is not attention times values (a gate behind it, say) is refused.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from checkpoints.errors import BadPrompt, UnsupportedArchitecture
from checkpoints.model.anatomy import Anatomy, Block, anatomy
from checkpoints.model.attention import attention_implementation
from checkpoints.model.plain import takes_model
from circuits.facts.batch import make_batch
from circuits.facts.facts import FactSet
from circuits.roles.roles import HeadRoles
from circuits.trace.trace import LayerTrace, Trace, frozen, head_writer, hooks, run, widen

TOLERANCE = 1e-3


@takes_model
def head_roles(model: PreTrainedModel, facts: FactSet, *, batch_size: int = 8, progress: bool = False) -> HeadRoles:
    """Where every head reads what it writes towards the answer, on the clean prompts.

    The subject is the named segment ``subject`` of a fact, else every position at which its clean and corrupt prompt
    differ; the relation is the rest of the prompt but the tokens that the tokenizer puts in front. Attention runs
    eagerly for this pass: the prompts of facts are short.

    Args:
        model: a decoder in Hugging Face form.
        facts: N clean/corrupt pairs; of an answer of several tokens the first is read.
        batch_size: facts of one length in one pass.
        progress: show a bar over the facts.

    Raises:
        UnsupportedArchitecture: the model's parts cannot be told apart, or its heads write something else than
            attention times values.
    """
    parts = anatomy(model)
    bos = model.config.get_text_config().bos_token_id
    found = np.zeros((2, len(facts), parts.n_layers, parts.n_heads), dtype=np.float32)
    with (
        frozen(model),
        attention_implementation(model, "eager"),
        torch.no_grad(),
        tqdm(total=len(facts), unit="fact", disable=not progress, leave=False) as bar,
    ):
        for index in _of_one_length(facts, batch_size):
            shares = _contributions(parts, facts, index)
            sets = np.stack([_sources(facts, i, bos) for i in index])
            found[:, index] = np.einsum("blhs,bks->kblh", shares, sets)
            bar.update(len(index))
    front = None if facts.front is None else list(facts.front)
    meta = {"prompts": facts.hash, "front": front, "refused": [list(item) for item in facts.refused]}
    return HeadRoles(subject=found[0], relation=found[1], meta=meta)


def _contributions(parts: Anatomy, facts: FactSet, index: list[int]) -> np.ndarray:
    """[b, L, H, t] contribution of every head to the answer's logit, by the token it comes from."""
    chosen = facts.subset(index)
    answer, wrong = (tuple(ids[:1] for ids in rows) for rows in (chosen.answer, chosen.wrong))
    prompts = replace(chosen, answer=answer, wrong=wrong)
    device = parts.blocks[0].output_weight.device
    maps: dict[int, Tensor] = {}
    handles = [block.attention.register_forward_hook(_map_keeper(maps, block.index)) for block in parts.blocks]
    with hooks(handles):
        batch = make_batch(prompts, range(len(index)), device)
        trace = run(parts, batch, batch.clean)
    towards = _answer_direction(parts, trace, torch.as_tensor(facts.answer_id[index], device=device))
    layers = [
        _layer_contributions(block, layer, maps.get(block.index), towards)
        for block, layer in zip(parts.blocks, trace.layers, strict=True)
    ]
    return torch.stack(layers, 1).cpu().numpy()


def _layer_contributions(block: Block, layer: LayerTrace, attention: Tensor | None, towards: Tensor) -> Tensor:
    """[b, H, t] of one layer."""
    if attention is None:
        raise UnsupportedArchitecture(
            f"layer {block.index}: {type(block.attention).__name__} returns no attention map under eager attention, so "
            "its heads' reading cannot be split by token"
        )
    rows = widen(attention[:, :, -1])
    values = widen(block.v.select(layer.v.flatten(1, -2)))
    values = values.repeat_interleave(rows.shape[1] // values.shape[2], 2)
    z = widen(layer.z)[:, -1].view(len(rows), rows.shape[1], -1)
    mixed = torch.einsum("bhs,bshe->bhe", rows, values)
    if mixed.shape != z.shape or not _equal_but_for_rounding(mixed, z, rows, values, layer.z.dtype):
        raise UnsupportedArchitecture(
            f"layer {block.index}: what {type(block.attention).__name__} hands to its output projection is not its "
            "attention times its values (a gate or a norm stands between), so it cannot be split by token"
        )
    if block.attention_post_norm is not None and layer.attention_raw is not None:
        inverse = block.attention_post_norm.normalise(widen(layer.attention_raw)[:, -1])[1]
        towards = towards * inverse
    wanted = torch.einsum("hed,bd->bhe", head_writer(block, towards.dtype), towards)
    return rows * torch.einsum("bshe,bhe->bhs", values, wanted)


def _equal_but_for_rounding(mixed: Tensor, z: Tensor, rows: Tensor, values: Tensor, dtype: torch.dtype) -> bool:
    """Whether attention times values is z, to the digits that sums of such products have in the model's dtype."""
    share = max(TOLERANCE, 2 * torch.finfo(dtype).eps)
    return bool(((mixed - z).abs() <= share * torch.einsum("bhs,bshe->bhe", rows, values.abs()).amax()).all())


def _answer_direction(parts: Anatomy, trace: Trace, answer: Tensor) -> Tensor:
    """[b, d] what a unit of the residual stream at the last token adds to the answer's logit less the mean logit."""
    norm = parts.final_norm
    weight = widen(parts.unembedding.weight)  # type: ignore[arg-type]
    centred = weight[answer] - weight.mean(0)
    inverse = norm.normalise(widen(trace.final)[:, -1])[1]
    return norm.centre(centred * norm.gain.to(centred.dtype)) * inverse


def _map_keeper(maps: dict[int, Tensor], layer: int):  # type: ignore[no-untyped-def]
    def keep(_module: torch.nn.Module, _args: object, output: object) -> None:
        if isinstance(output, tuple) and len(output) > 1 and isinstance(output[1], Tensor) and output[1].ndim == 4:
            maps[layer] = output[1]

    return keep


def _sources(facts: FactSet, index: int, bos: int | list[int] | None) -> np.ndarray:
    """[2, t] which tokens are the subject's and which the relation's."""
    clean, corrupt = np.array(facts.clean[index]), np.array(facts.corrupt[index])
    named = facts.segments[index].get("subject") if facts.segments else None
    subject = clean != corrupt
    if named is not None:
        subject = np.zeros(len(clean), dtype=bool)
        subject[slice(*named)] = True
    if not subject.any():
        raise BadPrompt(f"fact {index}: the segment 'subject' holds no token; name the words as the prompt has them")
    return np.stack([subject, ~subject & ~_in_front(facts, clean, bos)])


def _in_front(facts: FactSet, prompt: np.ndarray, bos: int | list[int] | None) -> np.ndarray:
    """[t] which tokens are the tokenizer's own in front; of ids given by hand without them, the model's BOS token."""
    first = np.arange(len(prompt)) == 0
    if facts.front is None:
        return np.asarray(first & np.isin(prompt, [] if bos is None else bos))
    size = len(facts.front)
    return np.asarray(np.arange(len(prompt)) < (size if tuple(prompt[:size]) == facts.front else 0))


def _of_one_length(facts: FactSet, size: int) -> Iterator[list[int]]:
    """Batches of facts whose prompts need no padding."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, prompt in enumerate(facts.clean):
        by_length[len(prompt)].append(index)
    for members in by_length.values():
        for start in range(0, len(members), size):
            yield members[start : start + size]
