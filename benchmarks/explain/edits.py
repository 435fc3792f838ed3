"""Planted edits: is the edited component first, and does putting it back restore the behaviour?

    python -m benchmarks.explain.edits --draws 20

Each draw edits one thing in the shipped checkpoint 9000 and explains the change of the needle answers' NLL.
"""

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from checkpoints import open_checkpoint
from circuit_drift.explanation.behaviours import Behaviour, needle_behaviour
from circuit_drift.explanation.explain import explain_line
from circuit_drift.explanation.explanation import Effort
from circuit_drift.explanation.line import line_between
from circuit_drift.explanation.shares import patched_values
from circuit_drift.measures.needles import needle_prompts_of
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.prompts import prompts_for

Edit = Callable[[PreTrainedModel, np.random.Generator], set[str]]
CLOSE = 0.05


def zeroed_output(model: PreTrainedModel, rng: np.random.Generator) -> set[str]:
    """One head's columns of the output projection."""
    layer, head, width = _head(model, rng)
    model.model.layers[layer].self_attn.o_proj.weight[:, width * head : width * (head + 1)] = 0
    return {f"a{layer}.h{head}.o"}


def exchanged_values(model: PreTrainedModel, rng: np.random.Generator) -> set[str]:
    """The value projections of two groups of one layer."""
    layer, _, width = _head(model, rng)
    weight = model.model.layers[layer].self_attn.v_proj.weight
    one, two = (int(group) for group in rng.choice(len(weight) // width, 2, replace=False))
    rows = [slice(width * group, width * (group + 1)) for group in (one, two)]
    kept = weight[rows[0]].clone()
    weight[rows[0]] = weight[rows[1]]
    weight[rows[1]] = kept
    return {f"a{layer}.kv{one}.v", f"a{layer}.kv{two}.v"}


def scaled_mlp(model: PreTrainedModel, rng: np.random.Generator) -> set[str]:
    """The output of one MLP, halved."""
    layer = int(rng.integers(len(model.model.layers)))
    model.model.layers[layer].mlp.down_proj.weight.mul_(0.5)
    return {f"m{layer}.down"}


def low_rank(model: PreTrainedModel, rng: np.random.Generator) -> set[str]:
    """A change of rank 4 to one layer's queries and values, as LoRA makes it."""
    layer, _, width = _head(model, rng)
    names = set()
    for letter, prefix in (("q", "h"), ("v", "kv")):
        weight = getattr(model.model.layers[layer].self_attn, f"{letter}_proj").weight
        factors = [
            torch.tensor(rng.normal(size=size), dtype=weight.dtype) for size in ((len(weight), 4), (4, weight.shape[1]))
        ]
        step = factors[0] @ factors[1]
        weight.add_(step * (0.3 * weight.norm() / step.norm()))
        names |= {f"a{layer}.{prefix}{i}.{letter}" for i in range(len(weight) // width)}
    return names


def ten_tokens(model: PreTrainedModel, rng: np.random.Generator) -> set[str]:
    """The embeddings of ten tokens, in a model whose head is tied to them."""
    weight = model.get_input_embeddings().weight
    rows = torch.tensor(rng.choice(len(weight), 10, replace=False))
    weight[rows] += torch.tensor(rng.normal(size=(10, weight.shape[1])), dtype=weight.dtype) * weight.std()
    return {"embedding", "unembedding"}


def beside_jitter(model: PreTrainedModel, rng: np.random.Generator) -> set[str]:
    """One head's output zeroed, and every weight moved by .3 % of its matrix's spread."""
    for parameter in model.parameters():
        parameter.add_(torch.tensor(rng.normal(size=parameter.shape), dtype=parameter.dtype) * 0.003 * parameter.std())
    return zeroed_output(model, rng)


def nothing(_model: PreTrainedModel, _rng: np.random.Generator) -> set[str]:
    """The identical pair."""
    return set()


EDITS: tuple[Edit, ...] = (
    zeroed_output, exchanged_values, scaled_mlp, low_rank, ten_tokens, beside_jitter, nothing,
)  # fmt: skip


def _head(model: PreTrainedModel, rng: np.random.Generator) -> tuple[int, int, int]:
    config = model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(rng.integers(config.num_hidden_layers)), int(rng.integers(config.num_attention_heads)), width


def main() -> None:
    """Print one line an edit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--checkpoint", default="demo@9000")
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--length", type=int, default=128, help="tokens of a prompt")
    parser.add_argument("--only", choices=[edit.__name__ for edit in EDITS], nargs="*", help="kinds of edits")
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    checkpoint = open_checkpoint(asked.checkpoint)
    loaded = checkpoint.load(device=asked.device, dtype="float32")
    needles = needle_prompts_of(tokenizer_of(loaded), prompts_for(checkpoint.path, length=asked.length).needles)
    behaviour = needle_behaviour(needles).thinned(asked.prompts)
    print("edit, draws, first, restored; claimed, of them first, restored; median |change|, worst residual, seconds")
    for edit in EDITS:
        if asked.only and edit.__name__ not in asked.only:
            continue
        start = time.process_time()
        drawn = [_drawn(edit, loaded.model, behaviour, draw) for draw in range(asked.draws)]
        claimed = [each for each in drawn if each.claimed]
        counts = [len(drawn), sum(d.first for d in drawn), sum(d.restored for d in drawn)]
        counts += [len(claimed), sum(d.first for d in claimed), sum(d.restored for d in claimed)]
        size, worst = np.median([each.size for each in drawn]), max(each.residual for each in drawn)
        taken = time.process_time() - start
        print(f"{edit.__name__}, {', '.join(map(str, counts))}, {size:.3g}, {worst:.2g}, {taken:.0f}", flush=True)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What was found of one planted edit: edited first, restored to 5 % by the edited, change claimed."""

    first: bool
    restored: bool
    claimed: bool
    size: float
    residual: float


def _drawn(edit: Edit, model: PreTrainedModel, behaviour: Behaviour, seed: int) -> _Drawn:
    a, b = copy.deepcopy(model), copy.deepcopy(model)
    with torch.no_grad():
        names = edit(b, np.random.default_rng(seed))
    line = line_between(a, b)
    found = explain_line(line, behaviour, ("A", "B"), Effort(prompts=len(behaviour), patching=False))
    first = bool(found.changed) and found.names[found.order[0]] in names
    line.move(0.0)
    edited = [place for place, name in enumerate(found.names) if name in names]
    put_in = found.restored(patched_values(line, behaviour, edited, 1.0))
    restored = abs(1 - put_in) <= CLOSE
    return _Drawn(first, restored, found.is_certain, abs(found.change.value), found.residual)


if __name__ == "__main__":
    main()
