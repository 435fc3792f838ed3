"""Are these heads causal for retrieval here? Ablation with named semantics, and controls that match."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import get_args

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from checkpoints.errors import BadPrompt, require_choice
from checkpoints.model.forward import row_logits
from checkpoints.model.plain import takes_model
from heads.ablation.ablation import Ablation, Readout
from heads.ablation.controls import Control, draw_controls
from heads.ablation.interventions import Calibration, EditPositions, Kind, Means, Scope, Targets, ablated
from heads.ablation.kinds import ABLATIONS
from heads.detect.retrieval import Extra, about, check_fits, kv_heads, pad, score
from heads.prompts.needles import NeedlePrompt, NeedleSet
from heads.scores.names import expand_heads, parse_head
from heads.scores.scores import Scores, retrieves

TEXT_TOKENS = 64
TOP = 5


@takes_model
def ablate(
    model: PreTrainedModel,
    needle_set: NeedleSet,
    heads: Sequence[str] | None = None,
    *,
    top_k: int | None = None,
    scores: Scores | None = None,
    kind: Kind = "off",
    scope: Scope = "both",
    against: Sequence[Control] = ("layer_matched", "non_retrieving"),
    controls: int = 5,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = False,
) -> Ablation:
    """Answer the needle prompts with some heads ablated, and with as many others ablated several times over.

    Args:
        model: in eval mode.
        needle_set: what `needle_prompts` built.
        heads: query heads ``a5.h1`` or KV groups ``a5.kv0``; the best retrieval heads when not given, and none for
            the model as it is.
        top_k: how many of the best heads, 5 when not given; not beside ``heads``.
        scores: to rank by; measured on the same prompts when not given.
        kind: ``off``, ``mean_output``, ``mean_query``, ``uniform`` or ``knockout`` (`kinds.ABLATIONS`). Means are taken
            over all positions of these very prompts.
        scope: ``prefill`` touches the positions before the row that predicts the first answer token, ``decode``
            that row and later ones (the published masking), ``both`` all of them.
        against: kinds of control (`kinds.CONTROLS`), reported side by side; the first that can be drawn decides the
            verdict, the others are noted. ``equal_write`` needs scores with the ``locos`` detector. Without any,
            nothing is said of causes.
        controls: how many draws of each kind.
        batch_size: prompts at a time.
        seed: of the controls.
        progress: show a progress bar.

    Raises:
        BadPrompt: no kind of control can be drawn, prompts the model cannot read, or an unknown kind or scope.
        DriftError: heads the model does not have.
        UnsupportedArchitecture: the model is outside the attention interface.
    """
    _check_counts(heads, top_k, controls)
    _check_ablation(kind, scope)
    check_fits(model, needle_set)
    shape = _shape(model)
    named = None if heads is None else expand_heads(heads, shape, kv_heads(model, shape[1]))
    extra: tuple[Extra, ...] = ("locos",) if "equal_write" in against else ()
    scores = scores or score(model, needle_set, extra=extra, batch_size=batch_size)
    tested = tuple(h.name for h in scores.top(TOP if top_k is None else top_k)) if named is None else named
    drawn, notes = _drawn(against, tested, scores, count=controls, seed=seed) if tested and against else ({}, ())
    means = _calibrate(model, needle_set, kind, batch_size) if tested and kind.startswith("mean") else None
    every = [(), tested, *(names for sets in drawn.values() for names in sets)]
    runs = {
        names: _readout(model, needle_set, names, kind=kind, scope=scope, means=means, batch_size=batch_size)
        for names in tqdm(list(dict.fromkeys(every)), desc="ablations", disable=not progress)
    }
    return Ablation(
        runs[()],
        runs[tested],
        {control: tuple(runs[names] for names in sets) for control, sets in drawn.items()},
        retrieving=tuple(h.name for h in scores.top(scores.mean.size) if retrieves(scores.mean)[h.layer, h.head]),
        needle=np.array([prompt.needle for prompt in needle_set]),
        notes=notes,
        meta={**about(model), "prompts": needle_set.hash, "length": needle_set.length, "seed": seed},
    )


def _check_counts(heads: Sequence[str] | None, top_k: int | None, controls: int) -> None:
    if heads is not None and top_k is not None:
        raise BadPrompt(f"heads = {list(heads)} and top_k = {top_k}: name the heads, or how many of the best")
    if controls < 1 or (top_k is not None and top_k < 1):
        raise BadPrompt(
            f"top_k = {top_k}, controls = {controls}: test one head at least, against one draw at least, or pass "
            "against=() for no controls"
        )


def _drawn(
    against: Sequence[Control], tested: Sequence[str], scores: Scores, *, count: int, seed: int
) -> tuple[dict[str, tuple[tuple[str, ...], ...]], tuple[str, ...]]:
    """The controls of each kind, and why a kind has none."""
    draw = np.random.default_rng(seed)
    drawn, notes = {}, []
    for control in against:
        try:
            drawn[str(control)] = draw_controls(control, tested, scores, count=count, draw=draw)
        except BadPrompt as reason:
            notes.append(f"no {control} control: {reason}")
    if not drawn:
        raise BadPrompt(f"{'; '.join(notes)}; or pass against=() for no controls")
    return drawn, tuple(notes)


def _check_ablation(kind: str, scope: str) -> None:
    if kind not in ABLATIONS:
        raise BadPrompt(f"no ablation is called {kind!r}; there are {list(ABLATIONS)}")
    require_choice("scope", scope, get_args(Scope))


def _shape(model: PreTrainedModel) -> tuple[int, int]:
    config = model.config.get_text_config()
    return int(config.num_hidden_layers), int(config.num_attention_heads)


def _calibrate(model: PreTrainedModel, needle_set: NeedleSet, kind: Kind, batch_size: int) -> Means:
    """Mean outputs and queries over all positions of the prompts, batches of equal length only."""
    calibration = Calibration(model, queries=kind == "mean_query")
    with torch.no_grad(), calibration.watching():
        for batch in _batches(needle_set.prompts, batch_size):
            ids = torch.tensor([p.ids for p in batch], device=model.device)
            row_logits(model, ids, torch.zeros_like(ids[:, :1]))
    return calibration.means()


def _batches(prompts: Sequence[NeedlePrompt], size: int) -> Iterator[list[NeedlePrompt]]:
    """Consecutive prompts of one length, so that nothing is padded."""
    batch: list[NeedlePrompt] = []
    for prompt in prompts:
        if batch and (len(batch) == size or len(batch[0].ids) != len(prompt.ids)):
            yield batch
            batch = []
        batch.append(prompt)
    yield batch


def _readout(
    model: PreTrainedModel,
    needle_set: NeedleSet,
    names: Sequence[str],
    *,
    kind: Kind,
    scope: Scope,
    means: Means | None,
    batch_size: int,
) -> Readout:
    """Recall, answer NLL and NLL of plain text under an ablation, prompt by prompt."""
    targets: dict[int, list[int]] = {}
    for name in names:
        layer, head = parse_head(name, _shape(model))
        targets.setdefault(layer, []).append(head)
    parts = [
        _batch_readout(model, batch, _editing(model, batch, targets, kind, scope, means))
        for batch in _batches(needle_set.prompts, batch_size)
    ]
    recall, nll, text = (np.concatenate([part[i] for part in parts]) for i in range(3))
    return Readout(tuple(names), kind, scope, recall, nll, text)


def _editing(
    model: PreTrainedModel,
    batch: Sequence[NeedlePrompt],
    targets: Targets,
    kind: Kind,
    scope: Scope,
    means: Means | None,
) -> AbstractContextManager[None]:
    if not targets:
        return nullcontext()
    hidden = torch.zeros(len(batch), max(len(p.ids) for p in batch), dtype=torch.bool, device=model.device)
    for row, prompt in zip(hidden, batch, strict=True):
        for span in prompt.needle_spans:
            row[slice(*span)] = True
    first = torch.tensor([p.answer_start - 1 for p in batch], device=model.device)
    return ablated(model, targets, EditPositions(first, hidden, scope), kind=kind, means=means)


def _batch_readout(
    model: PreTrainedModel, batch: Sequence[NeedlePrompt], edit: AbstractContextManager[None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids, answer_rows = pad(batch)
    text_rows = _text_rows(batch)
    rows = torch.cat([answer_rows, text_rows], dim=1).to(model.device)
    ids = ids.to(model.device)
    with torch.no_grad(), edit:
        logits = row_logits(model, ids, rows)
    targets = ids.gather(1, rows + 1)
    nll = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none").cpu().numpy()
    right = (logits.argmax(dim=-1) == targets).cpu().numpy()
    n = [len(p.answer) for p in batch]
    return (
        np.array([row[:k].mean() for row, k in zip(right, n, strict=True)]),
        np.array([row[:k].mean() for row, k in zip(nll, n, strict=True)]),
        nll[:, answer_rows.shape[1] :].mean(axis=1),
    )


def _text_rows(batch: Sequence[NeedlePrompt]) -> Tensor:
    """[batch, T] rows that predict haystack tokens, needle, distractors and question left out: needs no retrieval."""
    every = []
    for prompt in batch:
        spans = (*prompt.needle_spans, prompt.question_span, *prompt.distractor_spans)
        busy = {p for start, stop in spans for p in range(start - 1, stop + 1)}
        every.append([p for p in range(1, prompt.answer_start - 1) if p not in busy][:TEXT_TOKENS])
    least = min(map(len, every))
    if not least:
        raise BadPrompt("a prompt has no haystack to read plain text from: make the prompts longer")
    return torch.tensor([rows[:least] for rows in every])
