"""Retrieval scores of a model: one fused forward per batch, answer rows on the side."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from checkpoints.errors import BadPrompt, UnsupportedArchitecture
from heads.needles import NeedlePrompt, NeedleSet
from heads.readings import copy_readings
from heads.reduce import KeyGroups, RowStats
from heads.rows import RowRequest, capture_rows
from heads.scores import RetrievalScores

GROUPS = ("needle", "first_token", "distractors")


def retrieval_scores(
    model: PreTrainedModel,
    needle_set: NeedleSet,
    *,
    batch_size: int = 8,
    key_block: int = 4096,
    progress: bool = False,
) -> RetrievalScores:
    """Score every head on every prompt, teacher-forced (retrieval score of arXiv 2604.02650, section 3.3).

    One forward per batch through the model's fused attention; only the rows that predict answer tokens are
    computed again. Batches are padded on the right, which a causal model cannot see.

    Args:
        model: in eval mode, on any device.
        needle_set: what `needle_prompts` built.
        batch_size: prompts at a time.
        key_block: keys treated at a time; changes memory, not results.
        progress: show a progress bar.

    Raises:
        BadPrompt: no prompts, or prompts beyond the model's positions or vocabulary.
        UnsupportedArchitecture: the model's attention rows cannot be read.
    """
    check_fits(model, needle_set.prompts)
    order = sorted(range(len(needle_set)), key=lambda i: len(needle_set.prompts[i].ids))
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    records: dict[int, Record] = {}
    for batch in tqdm(batches, desc="retrieval scores", disable=not progress):
        prompts = [needle_set.prompts[i] for i in batch]
        records |= zip(batch, score_batch(model, prompts, key_block=key_block), strict=True)
    return _assemble(model, needle_set, [records[i] for i in range(len(needle_set))])


@dataclass(frozen=True, slots=True)
class Record:
    """What one prompt yields: detectors [L, H], NLL and top-1 of each answer token."""

    detectors: dict[str, np.ndarray]
    nll: np.ndarray
    right: np.ndarray


def check_fits(model: PreTrainedModel, prompts: Sequence[NeedlePrompt]) -> None:
    """Refuse what the model cannot read, with the reason."""
    if not prompts:
        raise BadPrompt("no prompt to score: every needle was refused, see NeedleSet.refused for the reasons")
    if model.training:
        raise BadPrompt("the model is in training mode, where dropout blurs the rows: call model.eval() first")
    config = model.config.get_text_config()
    longest, largest = max(len(p.ids) for p in prompts), max(max(p.ids) for p in prompts)
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and longest > positions:
        raise BadPrompt(f"prompt and answer take {longest} tokens, the model has {positions} positions: shorten them")
    if largest >= config.vocab_size:
        raise BadPrompt(f"token id {largest} is beyond the model's vocabulary ({config.vocab_size}): wrong tokenizer?")


def score_batch(model: PreTrainedModel, prompts: Sequence[NeedlePrompt], *, key_block: int) -> Iterator[Record]:
    """One forward over a few prompts."""
    ids, rows = _pad(prompts)
    ids, rows = ids.to(model.device), rows.to(model.device)
    layers: dict[int, RowStats] = {}
    request = RowRequest(rows, _groups(prompts, ids.shape[1], ids.device), key_block=key_block)
    with torch.no_grad(), capture_rows(model, request, layers.__setitem__):
        logits = row_logits(model, ids, rows)
    if not layers:
        raise UnsupportedArchitecture(f"{type(model).__name__} has no layer whose attention rows can be read")
    kept = {layer: _Layer.of(stats) for layer, stats in layers.items()}
    log_probs = logits.float().log_softmax(dim=-1)
    for b, prompt in enumerate(prompts):
        n = len(prompt.answer)
        answer = torch.tensor(prompt.answer, device=logits.device)
        nll = -log_probs[b, :n].gather(-1, answer[:, None])[:, 0]
        right = logits[b, :n].argmax(dim=-1) == answer
        detectors = _detectors(model, prompt, {layer: stats.prompt(b, n) for layer, stats in kept.items()})
        yield Record(detectors, nll.cpu().numpy(), right.cpu().numpy())


def row_logits(model: PreTrainedModel, ids: Tensor, rows: Tensor) -> Tensor:
    """Logits of the given rows only, [batch, rows, vocabulary]: all positions at once would dwarf the model."""
    wanted, place = torch.unique(rows, return_inverse=True)
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        logits: Tensor = model(ids, use_cache=False, logits_to_keep=wanted).logits
    else:
        logits = model(ids, use_cache=False).logits[:, wanted]
    return logits.gather(1, place[..., None].expand(-1, -1, logits.shape[-1]))


def _pad(prompts: Sequence[NeedlePrompt]) -> tuple[Tensor, Tensor]:
    """Ids [batch, S] padded on the right; rows [batch, T] that predict the answer, the last one repeated."""
    size, longest = max(len(p.ids) for p in prompts), max(len(p.answer) for p in prompts)
    ids = torch.tensor([[*p.ids, *[p.ids[-1]] * (size - len(p.ids))] for p in prompts])
    rows = [[p.answer_start - 1 + min(t, len(p.answer) - 1) for t in range(longest)] for p in prompts]
    return ids, torch.tensor(rows)


def _groups(prompts: Sequence[NeedlePrompt], size: int, device: torch.device) -> KeyGroups:
    members = torch.zeros(len(prompts), size, len(GROUPS), dtype=torch.bool, device=device)
    members[:, 0, 1] = True
    for b, prompt in enumerate(prompts):
        members[b, slice(*prompt.answer_span), 0] = True
        for span in prompt.distractor_spans:
            members[b, slice(*span), 2] = True
    return lambda rows, keys: members[:, None, keys]


@dataclass(frozen=True, slots=True)
class _Layer:
    """Row statistics of one layer as numpy."""

    argmax: np.ndarray
    mass: np.ndarray
    reach: np.ndarray
    entropy: np.ndarray
    sink: np.ndarray

    @staticmethod
    def of(stats: RowStats) -> "_Layer":
        names = ("argmax", "mass", "reach", "entropy", "sink")
        return _Layer(*(getattr(stats, name).cpu().numpy() for name in names))

    def prompt(self, b: int, n: int) -> "_Layer":
        """Of one prompt: heads first, its own n rows only."""
        reach = self.reach[min(b, len(self.reach) - 1), :n]
        return _Layer(self.argmax[b, :, :n], self.mass[b, :, :n], reach, self.entropy[b, :, :n], self.sink[b, :, :n])


def _detectors(model: PreTrainedModel, prompt: NeedlePrompt, layers: dict[int, _Layer]) -> dict[str, np.ndarray]:
    """[L, H] of every detector; NaN where a layer has no rows or a row cannot reach the whole answer."""
    ids, answer = np.asarray(prompt.ids), np.asarray(prompt.answer)
    n_layers = max(model.config.get_text_config().num_hidden_layers, max(layers) + 1)
    n_heads = max(layer.argmax.shape[0] for layer in layers.values())
    out: dict[str, np.ndarray] = {}
    for index, layer in layers.items():
        values = copy_readings(layer.argmax, ids, answer, prompt.answer_span)
        values |= {name: layer.mass[..., g].mean(axis=1) for g, name in enumerate(("needle_mass", *GROUPS[1:]))}
        values |= {"entropy": layer.entropy.mean(axis=1), "sink": layer.sink.mean(axis=1)}
        reachable = bool((layer.reach[:, 0] == prompt.answer_span[1] - prompt.answer_span[0]).all())
        for name, value in values.items():
            table = out.setdefault(name, np.full((n_layers, n_heads), np.nan, dtype=np.float32))
            if reachable or name not in NEEDS_NEEDLE:
                table[index, : len(value)] = value
    return out


NEEDS_NEEDLE = {"copy", "copy_positions", "copy_count", "activation", "needle_mass"}


def _assemble(model: PreTrainedModel, needle_set: NeedleSet, records: Sequence[Record]) -> RetrievalScores:
    longest = max(len(r.nll) for r in records)
    nll = np.full((len(records), longest), np.nan, dtype=np.float32)
    for row, record in zip(nll, records, strict=True):
        row[: len(record.nll)] = record.nll
    detectors = {name: np.stack([r.detectors[name] for r in records]) for name in records[0].detectors}
    prompts = needle_set.prompts
    meta = {
        "prompts": needle_set.hash,
        "length": needle_set.length,
        "refused": [list(pair) for pair in needle_set.refused],
        "model": type(model).__name__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "mode": "teacher_forced",
        "chance": float(np.mean([1 / p.answer_start for p in prompts])),
        "layers_without_rows": [int(x) for x in np.flatnonzero(np.isnan(detectors["entropy"]).all(axis=(0, 2)))],
    }
    return RetrievalScores(
        detectors=detectors,
        nll=nll,
        correct=np.array([bool(r.right.all()) for r in records]),
        depth=np.array([p.depth for p in prompts], dtype=np.float32),
        needle=np.array([p.needle for p in prompts]),
        meta=meta,
    )
