"""Retrieval scores of a model: one fused forward per batch, answer rows on the side."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from checkpoints.errors import BadPrompt, CorruptWeights, UnsupportedArchitecture, require_choice
from checkpoints.model.anatomy import anatomy
from checkpoints.model.forward import row_logits
from checkpoints.model.plain import takes_model
from checkpoints.model.rope import context_of, of_one_regime
from checkpoints.results.text import counted
from heads.detect.answer_rows import LayerRows, Stack, answer_groups, copied
from heads.detect.detectors import answer_detectors, levels, table
from heads.detect.direct_logit import Writing
from heads.detect.examples import example_of, middle_prompt
from heads.detect.generation import NEW_TOKENS, contains, generate, recall
from heads.prompts.needles import NeedlePrompt, NeedleSet
from heads.rows.prefix import Prefix, SharedPrefix, cache_for
from heads.rows.reduce import RowStats
from heads.rows.rows import RowRequest, capture_rows
from heads.scores.example import TOP, Example
from heads.scores.scores import GATE, Scores

Mode = Literal["teacher_forced", "generate_then_score"]
Extra = Literal["locos"]


@takes_model
def score(
    model: PreTrainedModel,
    needle_set: NeedleSet,
    *,
    mode: Mode = "teacher_forced",
    extra: Sequence[Extra] = (),
    stop_ids: Sequence[int] = (),
    prefix: Prefix = "separate",
    batch_size: int = 8,
    key_block: int = 2048,
    progress: bool = False,
) -> Scores:
    """Score every head on every prompt with every detector that its answer rows can feed.

    One forward per batch through the model's fused attention; only the rows that predict answer tokens are
    computed again, and in the last layer, behind which nothing else is read, no others are computed at all. Batches
    are padded on the right, which a causal model cannot see.

    Args:
        model: in eval mode, on any device.
        needle_set: what `needle_prompts` built.
        mode: ``teacher_forced`` (arXiv 2604.02650) feeds the answer and is defined from step 0 on;
            ``generate_then_score`` (arXiv 2404.15574) lets the model answer greedily, scores what it wrote, and
            accepts a prompt when it recalls more than half of the answer's tokens; the NLL is the true answer's.
        extra: ``locos`` adds the direct-write scores, which need the output projection and the unembedding.
        stop_ids: tokens that end a generated answer, besides the model's end-of-sequence tokens.
        prefix: ``shared`` takes the prompts one by one, deepest needle first, and reuses the keys and values up to
            the first difference: ten depths for the price of six. Changes cost, not results. ``auto`` does so where it
            pays: on a CPU, in float32, for prompts of 512 tokens or more that share a quarter of them.
        batch_size: prompts at a time; one when prefixes are shared.
        key_block: keys treated at a time; changes memory, not results.
        progress: show a progress bar.

    Raises:
        BadPrompt: no prompts, prompts beyond the model's positions or vocabulary, or an unknown mode, extra or prefix.
        UnsupportedArchitecture: the model's attention rows cannot be read.
        CorruptWeights: the logits of an answer are NaN or infinite.
    """
    require_choice("mode", mode, get_args(Mode))
    require_choice("prefix", prefix, get_args(Prefix))
    for name in extra:
        require_choice("extra", name, get_args(Extra))
    if batch_size < 1 or key_block < 1:
        raise BadPrompt(f"batch_size and key_block count from 1 on: got {batch_size} and {key_block}")
    check_fits(model, needle_set, spare=NEW_TOKENS if mode == "generate_then_score" else 0)
    in_order = [needle_set.prompts[i].ids for (i,) in _batches(needle_set, 1, deepest_first=True)]
    cache = cache_for(model, prefix, in_order)
    batches = _batches(needle_set, 1 if cache else batch_size, deepest_first=cache is not None)
    shown, narrow = middle_prompt(needle_set), last_layer(model)
    records: dict[int, PromptScores] = {}
    for batch in tqdm(batches, desc="retrieval scores", disable=not progress):
        prompts = [needle_set.prompts[i] for i in batch]
        scored = prompts if mode == "teacher_forced" else _answered(model, prompts, stop_ids)
        found = score_batch(model, scored, key_block=key_block, extra=extra, cache=cache, shown=shown, narrow=narrow)
        if mode == "generate_then_score":
            true = answer_nll(model, prompts)
            found = [_judged(*each) for each in zip(found, prompts, scored, true, strict=True)]
        records |= zip(batch, found, strict=True)
    ordered = [records[i] for i in range(len(needle_set))]
    return assemble(model, needle_set, ordered, mode=mode)


def _batches(needle_set: NeedleSet, size: int, *, deepest_first: bool) -> list[list[int]]:
    """Indices of prompts to run together: of similar length, or neighbours that share the longest prefix."""
    prompts = needle_set.prompts

    def rank(i: int) -> tuple[int, int]:
        return (prompts[i].needle, -prompts[i].before) if deepest_first else (len(prompts[i].ids), i)

    order = sorted(range(len(prompts)), key=rank)
    return [order[i : i + size] for i in range(0, len(order), size)]


@dataclass(frozen=True, slots=True)
class PromptScores:
    """What one prompt yields: detectors [L, H], NLL of each token, whether the answer was right, steps [L, H, T].

    ``example`` is what every head reads, for the one prompt that is shown.
    """

    detectors: dict[str, np.ndarray]
    nll: np.ndarray
    correct: bool
    accepted: bool
    steps: np.ndarray
    example: Example | None = None


def check_fits(model: PreTrainedModel, prompts: NeedleSet | Sequence[NeedlePrompt], *, spare: int = 0) -> None:
    """Refuse what the model cannot read, with the reason."""
    if not len(prompts):
        refused = [f"needle {index}: {reason}" for index, reason in getattr(prompts, "refused", ())]
        said = f"all {len(refused)} needles were refused, {refused[0]}" if refused else "there is no needle or length"
        raise BadPrompt(f"no prompt to score: {said}")
    if isinstance(prompts, NeedleSet) and (positions := context_of(model.config)) is not None:
        prompts.require_fit(positions, spare)
    check_ids(model, [prompt.ids for prompt in prompts], spare=spare)


def check_ids(model: PreTrainedModel, sequences: Sequence[Sequence[int]], *, spare: int = 0) -> None:
    """Refuse sequences beyond the model's positions or vocabulary."""
    check_positions(model, max(map(len, sequences)) + spare)
    largest, known = max(map(max, sequences)), model.config.get_text_config().vocab_size
    if largest >= known:
        raise BadPrompt(f"token id {largest} is beyond the model's vocabulary ({known}): wrong tokenizer?")


def check_positions(model: PreTrainedModel, longest: int) -> None:
    """Refuse a sequence beyond the model's positions, and a model in training mode."""
    if model.training:
        raise BadPrompt("the model is in training mode, where dropout blurs the rows: call model.eval() first")
    positions = context_of(model.config)
    if positions is not None and longest > positions:
        raise BadPrompt(
            f"prompt and answer take {longest} tokens, the model has {positions} positions: take prompts that are "
            f"{longest - positions} tokens shorter or more (length, --length)"
        )


def score_batch(
    model: PreTrainedModel,
    prompts: Sequence[NeedlePrompt],
    *,
    key_block: int = 2048,
    extra: Sequence[Extra] = (),
    cache: SharedPrefix | None = None,
    shown: NeedlePrompt | None = None,
    narrow: int | None = None,
) -> list[PromptScores]:
    """One forward over a few prompts, their answers teacher-forced; over the rest behind a shared prefix, if any.

    Of the prompt ``shown``, if it is among them, what every head reads is kept too. ``narrow`` is as in `RowRequest`.

    Prompts that would change each other by their lengths run apart (`checkpoints.model.rope`).

    Raises:
        CorruptWeights: the logits of an answer are NaN or infinite.
        UnsupportedArchitecture: no layer has rows.
    """
    found: dict[int, PromptScores] = {}
    for places in of_one_regime(model, [len(prompt.ids) for prompt in prompts]):
        together = [prompts[place] for place in places]
        found |= zip(places, _score_together(model, together, key_block, extra, cache, shown, narrow), strict=True)
    return [found[place] for place in range(len(prompts))]


def _score_together(
    model: PreTrainedModel,
    prompts: Sequence[NeedlePrompt],
    key_block: int,
    extra: Sequence[Extra],
    cache: SharedPrefix | None,
    shown: NeedlePrompt | None,
    narrow: int | None,
) -> list[PromptScores]:
    ids, rows = pad(prompts)
    ids, rows = ids.to(model.device), rows.to(model.device)
    start = 0 if cache is None else cache.reuse(prompts[0].ids, keep=prompts[0].answer_start - 1)
    writing = Writing(model, rows - start, ids.gather(1, rows + 1)) if "locos" in extra else None
    layers: dict[int, RowStats] = {}
    request = RowRequest(
        rows,
        answer_groups(prompts, ids.shape[1], ids.device),
        top=max(*(len(p.gold) for p in prompts), TOP if any(p is shown for p in prompts) else 0),
        key_block=key_block,
        directions=None if writing is None else writing.directions,
        narrow=narrow,
    )
    watching = nullcontext() if writing is None else writing.watching()
    inputs = {} if cache is None else cache.inputs
    with torch.no_grad(), watching, capture_rows(model, request, layers.__setitem__):
        logits = row_logits(model, ids[:, start:], rows - start, **inputs)
    if writing is not None:
        layers = {index: writing.finish(index, stats) for index, stats in layers.items()}
    return list(_records(model, prompts, logits, layers, shown))


def last_layer(model: PreTrainedModel) -> int | None:
    """The last layer, if nothing but attention carries from token to token in it; None where its parts are unknown."""
    try:
        return anatomy(model).n_layers - 1
    except UnsupportedArchitecture:
        return None


def _records(
    model: PreTrainedModel,
    prompts: Sequence[NeedlePrompt],
    logits: Tensor,
    layers: dict[int, RowStats],
    shown: NeedlePrompt | None,
) -> Iterator[PromptScores]:
    kept = {layer: LayerRows.of(stats) for layer, stats in layers.items()}
    stacks = Stack.of(kept)
    log_probs = logits.float().log_softmax(dim=-1)
    for b, prompt in enumerate(prompts):
        n = len(prompt.answer)
        answer = torch.tensor(prompt.answer, device=logits.device)
        nll = -log_probs[b, :n].gather(-1, answer[:, None])[:, 0]
        hits = logits[b, :n].argmax(dim=-1) == answer
        own = [(stack, stack.rows.prompt(b, n)) for stack in stacks]
        values = {layer: value for each in own for layer, value in _values(*each, prompt)}
        share = float(hits.float().mean())
        scores = table(model, values)
        shape = scores["copy"].shape
        steps = _steps(prompt, own, shape)
        alone = {index: layer.prompt(b, n) for index, layer in kept.items()} if prompt is shown else {}
        example = example_of(prompt, alone, shape) if alone else None
        yield PromptScores(scores, nll.cpu().numpy(), bool(hits.all()), share > GATE, steps, example)


def _values(
    stack: Stack, rows: LayerRows, prompt: NeedlePrompt
) -> Iterator[tuple[int, tuple[dict[str, np.ndarray], bool]]]:
    """What `table` takes of each layer of a stack, from the stack's rows of one prompt."""
    found, reaches = answer_detectors(rows, prompt), rows.reaches(len(prompt.gold))
    for layer, heads in stack.heads():
        yield layer, ({name: value[heads] for name, value in found.items()}, reaches)


def _steps(prompt: NeedlePrompt, own: Sequence[tuple[Stack, LayerRows]], shape: tuple[int, ...]) -> np.ndarray:
    """[L, H, T] int8: where a head copies, 1 or 0; -1 in layers that cannot."""
    steps = np.full((*shape, len(prompt.answer)), -1, dtype=np.int8)
    ids, answer, gold = (np.asarray(part) for part in (prompt.ids, prompt.answer, prompt.gold))
    for stack, rows in own:
        if rows.reaches(len(gold)):
            hits = copied(rows.argmax, ids, answer, gold)
            for layer, heads in stack.heads():
                steps[layer, : heads.stop - heads.start] = hits[heads]
    return steps


def pad(prompts: Sequence[NeedlePrompt]) -> tuple[Tensor, Tensor]:
    """Ids [batch, S] padded on the right; rows [batch, T] that predict the answer, the last one repeated."""
    size, longest = max(len(p.ids) for p in prompts), max(len(p.answer) for p in prompts)
    ids = torch.tensor([[*p.ids, *[p.ids[-1]] * (size - len(p.ids))] for p in prompts])
    rows = [[p.answer_start - 1 + min(t, len(p.answer) - 1) for t in range(longest)] for p in prompts]
    return ids, torch.tensor(rows)


def _answered(model: PreTrainedModel, prompts: Sequence[NeedlePrompt], stop_ids: Sequence[int]) -> list[NeedlePrompt]:
    """The prompts with what the model writes greedily in the place of their answers."""
    return [
        replace(p, ids=(*p.ids[: p.answer_start], *generate(model, p.ids[: p.answer_start], stop_ids=stop_ids)))
        for p in prompts
    ]


def _judged(
    record: PromptScores, prompt: NeedlePrompt, answered: NeedlePrompt, true: tuple[np.ndarray, bool]
) -> PromptScores:
    """A record of a generated answer with the gate's verdict on it, and the NLL of the true one."""
    correct, share = contains(answered.answer, prompt.answer), recall(answered.answer, prompt.answer)
    return replace(record, nll=true[0], correct=correct, accepted=share > GATE)


def answer_nll(model: PreTrainedModel, prompts: Sequence[NeedlePrompt]) -> list[tuple[np.ndarray, bool]]:
    """Nats per teacher-forced answer token, and whether all are the most likely ones, per prompt; no rows taken."""
    return [(nll, bool(hits.all())) for nll, hits in answer_tokens(model, prompts)]


@torch.no_grad()
@takes_model
def answer_tokens(
    model: PreTrainedModel, prompts: Sequence[NeedlePrompt], cache: SharedPrefix | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Nats of each teacher-forced answer token, and whether it is the most likely one, both [T] per prompt.

    Args:
        model: in eval mode.
        prompts: with their answers; a single one where prefixes are shared.
        cache: keys and values of the prompt before, which this one goes on from as far as they agree.
    """
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for places in of_one_regime(model, [len(prompt.ids) for prompt in prompts]):
        together = [prompts[place] for place in places]
        ids, rows = (part.to(model.device) for part in pad(together))
        start = 0 if cache is None else cache.reuse(together[0].ids, keep=together[0].answer_start - 1)
        inputs = {} if cache is None else cache.inputs
        logits = row_logits(model, ids[:, start:], rows - start, **inputs).float()
        targets = ids.gather(1, rows + 1)
        nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none").cpu().numpy()
        right = (logits.argmax(dim=-1) == targets).cpu().numpy()
        for place, own, hit in zip(places, nll, right, strict=True):
            n = len(prompts[place].answer)
            found[place] = (own[:n], hit[:n])
    return [found[place] for place in range(len(prompts))]


def assemble(model: PreTrainedModel, needle_set: NeedleSet, records: Sequence[PromptScores], *, mode: str) -> Scores:
    """Stack the prompts' records into one result."""
    detectors = {name: np.stack([r.detectors[name] for r in records]) for name in records[0].detectors}
    require_finite([record.nll for record in records])
    prompts = needle_set.prompts
    meta = {
        **about(model),
        "prompts": needle_set.hash,
        "length": needle_set.length,
        "refused": [list(pair) for pair in needle_set.refused],
        "front": list(needle_set.front),
        "depths": achieved_depths(prompts),
        "answers_unlike_needle": sum(p.answer[: len(p.answer_in_needle)] != p.answer_in_needle for p in prompts),
        "mode": mode,
        **levels(prompts),
        "layers_without_rows": [int(x) for x in np.flatnonzero(np.isnan(detectors["entropy"]).all(axis=(0, 2)))],
    }
    return Scores(
        detectors=detectors,
        kv_heads=kv_heads(model, detectors["entropy"].shape[2]),
        nll=stack([r.nll.astype(np.float32) for r in records], fill=np.nan),
        correct=np.array([r.correct for r in records]),
        accepted=np.array([r.accepted for r in records]),
        depth=np.array([p.depth for p in prompts], dtype=np.float32),
        needle=np.array([p.needle for p in prompts]),
        steps=stack([r.steps for r in records], fill=-1),
        example=next((record.example for record in records if record.example is not None), None),
        meta=meta,
    )


def require_finite(nll: Sequence[np.ndarray]) -> None:
    """Refuse answers whose likelihood is no number, which means would leave out as if they had not been asked.

    Raises:
        CorruptWeights: how many prompts are such.
    """
    broken = sum(not np.isfinite(each).all() for each in nll)
    if broken:
        raise CorruptWeights(
            f"the answers' likelihood is not finite on {broken} of {counted(len(nll), 'prompt')}; try dtype float32, "
            "and check the weights"
        )


def achieved_depths(prompts: Sequence[NeedlePrompt]) -> list[list[float]]:
    """[asked, least achieved, mean achieved, greatest achieved] of each depth."""
    found: dict[float, list[float]] = {}
    for prompt in prompts:
        found.setdefault(prompt.requested_depth, []).append(prompt.depth)
    return [[asked, min(got), float(np.mean(got)), max(got)] for asked, got in sorted(found.items())]


def stack(parts: Sequence[np.ndarray], *, fill: float) -> np.ndarray:
    """Arrays that differ in the length of their last axis in one, the short ones filled up."""
    longest = max(part.shape[-1] for part in parts)
    out = np.full((len(parts), *parts[0].shape[:-1], longest), fill, dtype=parts[0].dtype)
    for row, part in zip(out, parts, strict=True):
        row[..., : part.shape[-1]] = part
    return out


def about(model: PreTrainedModel) -> dict[str, str]:
    """What a result says of the model it was measured on."""
    return {"model": type(model).__name__, "dtype": str(model.dtype).removeprefix("torch.")}


def kv_heads(model: PreTrainedModel, heads: int) -> int:
    """Number of KV heads, as the model's configuration has it; every query head its own where it has none."""
    return int(getattr(model.config.get_text_config(), "num_key_value_heads", None) or heads)
