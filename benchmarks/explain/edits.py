"""Planted edits: is the edited component first, and does putting it back restore what the edit made?

    python -m benchmarks.explain.edits --draws 20

Each draw edits one thing in the shipped checkpoint 9000 and explains the change of the needle answers' NLL. What the
edit does is known: the behaviour with it, less the behaviour without it. Where all else moves too (jitter), that is not
the whole change, of which the jitter makes a part by itself, and it is not the same in both models: put into A, the
edited component is held against the edit made in A; taken out of B, against the edit made in B. Whether these two are
alike is a property of the model, and counted by itself. With ``--into FILE`` draws are kept, and made once.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from checkpoints import open_checkpoint
from checkpoints.stats.shares import exact_share_interval
from circuit_drift.explanation.behaviours import Behaviour, batches, needle_behaviour, run
from circuit_drift.explanation.explain import explain_line
from circuit_drift.explanation.explanation import Effort
from circuit_drift.explanation.line import line_between
from circuit_drift.explanation.shares import BATCH, patched_values
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


def nothing(_model: PreTrainedModel, _rng: np.random.Generator) -> set[str]:
    """The identical pair."""
    return set()


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of planted edit.

    Attributes:
        edit: what is done to one thing.
        jitter: every weight is moved first by so much of its matrix's spread.
    """

    edit: Edit
    jitter: float = 0.0


KINDS = {
    "zeroed_output": Kind(zeroed_output),
    "exchanged_values": Kind(exchanged_values),
    "scaled_mlp": Kind(scaled_mlp),
    "low_rank": Kind(low_rank),
    "ten_tokens": Kind(ten_tokens),
    "beside_jitter": Kind(zeroed_output, jitter=0.003),
    "nothing": Kind(nothing),
}


def jittered(model: PreTrainedModel, by: float, rng: np.random.Generator) -> None:
    """Move every weight of a model by so much of its matrix's spread."""
    for parameter in model.parameters() if by else ():
        parameter.add_(torch.tensor(rng.normal(size=parameter.shape), dtype=parameter.dtype) * by * parameter.std())


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
    parser.add_argument("--steps", type=int, help="gradients of each; by default as many as completeness takes")
    parser.add_argument("--only", choices=list(KINDS), nargs="*", help="kinds of edits")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--into", type=Path, help="a file of one draw a line; those that it holds are not made again")
    asked = parser.parse_args()
    checkpoint = open_checkpoint(asked.checkpoint)
    loaded = checkpoint.load(device=asked.device, dtype="float32")
    needles = needle_prompts_of(tokenizer_of(loaded), prompts_for(checkpoint.path, length=asked.length).needles)
    behaviour = needle_behaviour(needles).thinned(asked.prompts)
    effort = Effort(prompts=asked.prompts, steps=asked.steps, patching=False)
    for name in asked.only or KINDS:
        kept = _kept(asked.into, name)
        for seed in range(asked.draws):
            if seed not in kept:
                kept[seed] = _drawn(KINDS[name], loaded.model, behaviour, effort, seed)
                _keep(asked.into, name, seed, kept[seed])
        print(f"{name}: {_counted([kept[seed] for seed in range(asked.draws)])}", flush=True)


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was found of one planted edit; means over prompts, in nats.

    Attributes:
        first: an edited component has the largest share.
        claimed: the interval of the whole change excludes 0.
        whole: m(B) - m(A).
        alone: m(A with the edit) - m(A): the whole change where nothing else moved.
        effect: m(B) - m(B without the edit): the same, where nothing else moved.
        put_in: m(A with the edited components of B) - m(A).
        taken: m(B) - m(B with the edited components of A).
        residual: of the shares.
        seconds: of CPU.
    """

    first: bool
    claimed: bool
    whole: float
    alone: float
    effect: float
    put_in: float
    taken: float
    residual: float
    seconds: float

    @property
    def restored(self) -> bool:
        """The edited components put into A do what the edit does there, to 5 %."""
        return _close(self.put_in, self.alone)

    @property
    def taken_back(self) -> bool:
        """Put back in B they take away what the edit does there, to 5 %."""
        return _close(self.taken, self.effect)

    @property
    def alike(self) -> bool:
        """The edit does the same in A as in B, to 5 %."""
        return _close(self.alone, self.effect)

    @property
    def restores_all(self) -> bool:
        """The edited components put in make the whole change, to 5 %."""
        return _close(self.put_in, self.whole)

    @property
    def found(self) -> bool:
        """First, restored and taken back."""
        return self.first and self.restored and self.taken_back


def _close(value: float, wanted: float) -> bool:
    return abs(value - wanted) <= CLOSE * abs(wanted)


def _kept(file: Path | None, name: str) -> dict[int, Drawn]:
    """The draws of a kind that a file holds, by seed."""
    lines = file.read_text().splitlines() if file is not None and file.exists() else []
    documents = (json.loads(line) for line in lines)
    return {each["seed"]: Drawn(**each["drawn"]) for each in documents if each["edit"] == name}


def _keep(file: Path | None, name: str, seed: int, drawn: Drawn) -> None:
    if file is not None:
        with file.open("a") as lines:
            lines.write(json.dumps({"edit": name, "seed": seed, "drawn": asdict(drawn)}) + "\n")


def _counted(drawn: Sequence[Drawn]) -> str:
    """Of so many draws, how many were what, with the exact interval of those that were found."""
    claimed = [each for each in drawn if each.claimed]
    hits = sum(each.found for each in drawn)
    low, high = exact_share_interval(hits, len(drawn))
    counts = ", ".join(
        f"{sum(getattr(each, key) for each in drawn)} {what}"
        for key, what in {
            "first": "first", "restored": "restored", "taken_back": "taken back", "alike": "alike in A and B",
            "restores_all": "restore the whole change",
        }.items()
    )  # fmt: skip
    median, worst = np.median([abs(each.effect) for each in drawn]), max(each.residual for each in drawn)
    return (
        f"found {hits} of {len(drawn)} [{100 * low:.0f}, {100 * high:.0f} %]: {counts}; "
        f"claimed {len(claimed)}, of them found {sum(each.found for each in claimed)}; "
        f"median change {median:.3g} nats, worst residual {100 * worst:.2g} %; "
        f"{sum(each.seconds for each in drawn):.0f} s of CPU"
    )


def _drawn(kind: Kind, model: PreTrainedModel, behaviour: Behaviour, effort: Effort, seed: int) -> Drawn:
    start, rng = time.process_time(), np.random.default_rng(seed)
    b = copy.deepcopy(model)
    with torch.no_grad():
        jittered(b, kind.jitter, rng)
        alone = _alone(kind, model, behaviour, copy.deepcopy(rng)) if kind.jitter else None
        without = _mean(b, behaviour) if kind.jitter else None
        names = kind.edit(b, rng)
    line = line_between(copy.deepcopy(model), b)
    found = explain_line(line, behaviour, ("A", "B"), effort)
    edited = [place for place, name in enumerate(found.names) if name in names]
    before, after = float(found.before.mean()), float(found.after.mean())
    line.move(1.0)
    taken = after - float(patched_values(line, behaviour, edited, -1.0).mean())
    line.move(0.0)
    return Drawn(
        first=bool(found.changed) and found.names[found.order[0]] in names,
        claimed=found.is_certain,
        whole=after - before,
        alone=after - before if alone is None else alone - before,
        effect=after - (before if without is None else without),
        put_in=float(patched_values(line, behaviour, edited, 1.0).mean()) - before,
        taken=taken,
        residual=found.residual,
        seconds=time.process_time() - start,
    )


def _alone(kind: Kind, model: PreTrainedModel, behaviour: Behaviour, rng: np.random.Generator) -> float:
    """The behaviour of the model with the edit and no jitter."""
    edited = copy.deepcopy(model)
    kind.edit(edited, rng)
    return _mean(edited, behaviour)


def _mean(model: PreTrainedModel, behaviour: Behaviour) -> float:
    with torch.no_grad():
        return float(torch.cat([run(model, behaviour, batch, {}) for batch in batches(behaviour, model, BATCH)]).mean())


if __name__ == "__main__":
    main()
