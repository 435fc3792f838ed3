"""The short fine-tune of a copy: all parameters or adapters on every linear layer, and resumable between its steps."""

import copy
import hashlib
import json
import logging
import math
import random
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints import DriftError
from checkpoints.errors import BadPrompt, CorruptWeights
from checkpoints.files.hashes import cache_folder
from circuit_drift.behaviour.randomness import random_states
from heads.prompts.needles import NeedlePrompt

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)
progress = logging.getLogger("circuit_drift.progress")

CLIP = 1.0
FINAL_LR = 0.25
SECONDS = 60.0
"""Between two saved states of a fine-tune; a shorter one is never saved."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """The fine-tune: AdamW on the answers' tokens, warm-up, then a cosine down to a quarter of the learning rate.

    Attributes:
        steps: optimizer steps.
        batch: prompts in a step.
        lr: peak learning rate.
        warmup: steps of linear warm-up.
        needles: training needles of each task, each at every depth.
        seeds: one copy is tuned for each, on another order of the same prompts; scores are means over them.
        lora: rank of adapters on every linear layer, merged afterwards; 0 = all parameters are tuned.
    """

    steps: int = 40
    batch: int = 8
    lr: float = 1e-4
    warmup: int = 4
    needles: int = 16
    seeds: tuple[int, ...] = (0,)
    lora: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.needles) < 1 or min(self.warmup, self.lora) < 0 or not self.seeds:
            raise BadPrompt(f"a fine-tune needs steps, batch and needles >= 1, a rank >= 0 and a seed: got {self}")
        if not 0 < self.lr < math.inf:
            raise BadPrompt(f"a fine-tune needs a finite lr above 0: got {self.lr:g}")


IGNORED = -100


def answer_logits(model: "PreTrainedModel", prompts: Sequence[NeedlePrompt]) -> "tuple[torch.Tensor, torch.Tensor]":
    """Float32 logits [batch, T, vocabulary] that predict the answers, and their tokens [batch, T], -100 beyond."""
    import torch

    from checkpoints.model.forward import row_logits
    from heads.detect.retrieval import pad

    ids, rows = (part.to(model.device) for part in pad(prompts))
    longest = rows.shape[1]
    targets = torch.tensor([[*p.answer, *[IGNORED] * (longest - len(p.answer))] for p in prompts], device=model.device)
    return row_logits(model, ids, rows).float(), targets


def tuning_of(options: Mapping[str, str]) -> Tuning:
    """A fine-tune from ``lora=16``, ``steps=200`` and so on.

    Raises:
        DriftError: a field that there is not, or no number.
    """
    kinds = {"steps": int, "batch": int, "lr": float, "warmup": int, "needles": int, "lora": int}
    try:
        return Tuning(**{name: kinds[name](value) for name, value in options.items()})
    except (KeyError, ValueError) as error:
        told = ", ".join(f"{name}={value}" for name, value in options.items())
        raise DriftError(
            f"sft takes tasks, train=FILE, test=FILE and numbers for {', '.join(kinds)}; got {told}"
        ) from error


@dataclass(frozen=True, slots=True)
class Resumable:
    """Where the state of a fine-tune in progress is kept, so that a killed one goes on from its last saved step.

    Attributes:
        folder: of this fine-tune alone: tensors and step; taken away when it is done.
        seconds: between two saved states.
    """

    folder: Path
    seconds: float = SECONDS

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Resumable":
        """Beside the cached hashes, under the hash of everything that decides the fine-tune."""
        key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
        return cls(cache_folder().parent / "tuning" / key)

    def save(self, twin: "torch.nn.Module", optimizer: "torch.optim.Optimizer", step: int) -> None:
        """Write the state, whole or not at all; where the disk cannot take it, the fine-tune goes on without."""
        import torch

        self.folder.mkdir(parents=True, exist_ok=True)
        tuned = {name: value for name, value in twin.named_parameters() if value.requires_grad}
        state = {"tuned": tuned, "optimizer": optimizer.state_dict(), "step": step, "random": torch.get_rng_state()}
        part = self.folder / "state.part"
        try:
            torch.save(state, part)
            part.replace(self.folder / "state.pt")
        except OSError as error:
            logger.warning("the state of a fine-tune cannot be kept in %s: %s", self.folder, error)

    def restore(self, twin: "torch.nn.Module", optimizer: "torch.optim.Optimizer") -> int:
        """Put a saved state into a fresh copy; returns how many steps it has behind it, 0 where there is none."""
        import torch

        path = self.folder / "state.pt"
        if not path.is_file():
            return 0
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a half-written or foreign file raises, the fine-tune begins anew
            logger.warning("the saved state of a fine-tune in %s cannot be read, it begins anew: %s", path, error)
            return 0
        own = dict(twin.named_parameters())
        with torch.no_grad():
            for name, value in state["tuned"].items():
                own[name].copy_(value)
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        return int(state["step"])

    def done(self) -> None:
        """Take the state away."""
        with suppress(OSError):
            for path in self.folder.glob("state.*"):
                path.unlink()
            self.folder.rmdir()


def fine_tune(
    model: "PreTrainedModel",
    prompts: Sequence[NeedlePrompt],
    tuning: Tuning,
    *,
    seed: int = 0,
    resume: Resumable | None = None,
) -> "PreTrainedModel":
    """A tuned copy, in eval mode; the model itself, and every random state, are left as they are.

    Args:
        model: any causal language model.
        prompts: with their answers, on whose tokens alone the loss is taken.
        tuning: for how long and how fast, of all parameters or of adapters.
        seed: of the order of prompts, of dropout and of the adapters.
        resume: where its state is kept on the way; None keeps none.

    Raises:
        DriftError: it diverges.
        UnsupportedArchitecture: quantised weights.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from checkpoints.model.packed import require_plain

    require_plain(model, "a fine-tune")
    with random_states(), torch.enable_grad():
        torch.manual_seed(seed)
        twin = _twin(model, tuning.lora)
        trained = [parameter for parameter in twin.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=tuning.lr, betas=(0.9, 0.95), weight_decay=0.0)
        begun = 0 if resume is None else resume.restore(twin, optimizer)
        if begun:
            progress.info("the fine-tune goes on after step %d of %d", begun, tuning.steps)
        batches, saved = _batches(prompts, tuning, seed), time.monotonic()
        for step, batch in enumerate(batches):
            if step < begun:
                continue
            for group in optimizer.param_groups:
                group["lr"] = tuning.lr * _scale(tuning, step)
            try:
                logits, targets = answer_logits(twin, batch)
            except CorruptWeights as error:
                raise DriftError(
                    f"the fine-tune diverged after {step} steps, its logits are not finite; lower its lr {tuning.lr:g}"
                ) from error
            loss = cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORED)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(trained, CLIP)
            optimizer.step()
            optimizer.zero_grad()
            if resume is not None and time.monotonic() - saved >= resume.seconds:
                resume.save(twin, optimizer, step + 1)
                saved = time.monotonic()
        tuned = _merged(twin)
    tuned.requires_grad_(False).train(mode=False)
    return tuned


def _batches(prompts: Sequence[NeedlePrompt], tuning: Tuning, seed: int) -> Iterator[list[NeedlePrompt]]:
    """The prompts of every step, each round of them in an order of its own."""
    rng = random.Random(f"sft-{seed}")
    shuffled = (prompt for _ in cycle([None]) for prompt in rng.sample(prompts, len(prompts)))
    for _ in range(tuning.steps):
        yield list(islice(shuffled, tuning.batch))


def _twin(model: "PreTrainedModel", rank: int) -> "PreTrainedModel":
    """A copy in training mode: all of its parameters to be tuned, or adapters on every linear layer."""
    twin = copy.deepcopy(model)
    twin.requires_grad_(rank == 0).train(mode=True)
    if rank == 0:
        return twin
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft's own use of what transformers renames
        wrapped: Any = get_peft_model(twin, config)
    return wrapped  # type: ignore[no-any-return]


def _merged(twin: Any) -> "PreTrainedModel":
    """The copy itself, its adapters put into its weights."""
    return twin.merge_and_unload() if hasattr(twin, "merge_and_unload") else twin  # type: ignore[no-any-return]


def _scale(tuning: Tuning, step: int) -> float:
    """Factor on the learning rate: linear warm-up, then a cosine from 1 to `FINAL_LR` at the last step."""
    if step < tuning.warmup:
        return (step + 1) / (tuning.warmup + 1)
    along = (step - tuning.warmup) / max(1, tuning.steps - 1 - tuning.warmup)
    return FINAL_LR + (1 - FINAL_LR) * 0.5 * (1 + math.cos(math.pi * along))
