"""One strategy of continual pre-training, as a value."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from checkpoints import DriftError
from checkpoints.errors import require_choice

Reference = Literal["original", "previous", "both", "best"]
Divergence = Literal["kl", "js"]
Told = Literal["all", "main", "unlearned"]
RopeType = Literal["default", "linear", "dynamic", "yarn", "llama3"]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Lora:
    """Low-rank adapters (Hu et al. 2021), trained in place of the weights they are added to; needs the extra ``lora``.

    The defaults are those of arXiv 2601.03858.

    Attributes:
        r: rank of each adapter.
        alpha: adapters are scaled by alpha / r.
        targets: last names of the linear modules that get one.
        embedding: train the whole embedding matrix too (and with it a tied unembedding); every checkpoint holds it.
        dropout: on the adapters' input.
    """

    r: int = 32
    alpha: float = 64.0
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    embedding: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.r < 1 or not self.alpha > 0 or not 0 <= self.dropout < 1 or not self.targets:
            raise DriftError(f"LoRA needs r >= 1, alpha > 0, 0 <= dropout < 1 and at least one target: got {self}")


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions changed before training, for contexts longer than the model's; names as transformers has them.

    Attributes:
        theta: the base, raised (10,000 -> 500,000 is usual); None = as it is.
        type: ``default``, ``linear`` (position interpolation), ``dynamic`` (NTK by length), ``yarn`` or ``llama3``.
        factor: by which the context grows; all types but the default need it.
        positions: of the model from then on (``max_position_embeddings``); None = as it is. ``dynamic`` scales beyond
            them alone, so they stay as they are, and the context becomes ``factor`` times as long.
        low_freq_factor: of ``llama3``.
        high_freq_factor: of ``llama3``.
    """

    theta: float | None = None
    type: RopeType = "default"
    factor: float | None = None
    positions: int | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None

    def __post_init__(self) -> None:
        require_choice("rope type", self.type, get_args(RopeType), error=DriftError)
        for name, value in (("theta", self.theta), ("factor", self.factor), ("positions", self.positions)):
            if value is not None and not value >= 1:
                raise DriftError(f"rope {name} {value} must be at least 1")
        if (self.type == "default") != (self.factor is None):
            raise DriftError(f"rope type {self.type}: a factor belongs to linear, dynamic, yarn and llama3, and to all")
        if (self.type == "llama3") != (None not in (self.low_freq_factor, self.high_freq_factor)):
            raise DriftError(f"rope type {self.type}: llama3, and it alone, takes low_freq_factor and high_freq_factor")
        if self.type == "dynamic" and self.positions is not None:
            raise DriftError(
                f"rope type dynamic scales beyond the model's positions alone, so that {self.positions} of them would "
                "switch it off up to there: leave positions out; the context becomes factor times as long"
            )
        if (self.type, self.theta, self.positions) == ("default", None, None):
            raise DriftError("rope changes nothing; give it a theta, a type or positions")


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way of continual pre-training; the default is full fine-tuning on the documents alone.

    Attributes:
        name: of its folder and its run.
        lr: peak learning rate of AdamW.
        warmup: optimizer steps of linear re-warming.
        documents: which ones an epoch tells: all, the main one of each entity, or those of entities that the last probe
            did not find learned (the curriculum).
        tags: put around every mention of a document's entity (annotation); tokens that a closed vocabulary lacks are
            added to it. Probes are asked without them.
        replay: old documents mixed in for each new one.
        kl: weight of the divergence from the reference, mean over tokens, in the loss.
        kl_to: the reference: the original model, the model at the end of the previous epoch, both (the mean of the two
            divergences), or the model of the epoch so far that recalled most.
        divergence: ``kl`` = KL(reference || model); ``js`` = Jensen-Shannon, symmetric and at most ln 2.
        freeze: shell-style patterns of parameter names that are not trained (``model.layers.0.*``).
        lora: train adapters instead of the weights.
        rope: rotary positions changed before training.
        lengths: tokens of a row in the first, second, ... epoch, the last for all that follow; empty = the config's.
        seed: of the order of the documents and of the adapters, in place of the config's: one strategy, several seeds.
    """

    name: str
    lr: float = 1e-4
    warmup: int = 0
    documents: Told = "all"
    tags: tuple[str, str] | None = None
    replay: float = 0.0
    kl: float = 0.0
    kl_to: Reference = "original"
    divergence: Divergence = "kl"
    freeze: tuple[str, ...] = ()
    lora: Lora | None = None
    rope: Rope | None = None
    lengths: tuple[int, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise DriftError(f"the strategy name {self.name!r} names a folder; use letters, digits, dots and dashes")
        if not self.lr > 0 or min(self.warmup, self.replay, self.kl) < 0:
            raise DriftError(
                f"strategy {self.name}: lr {self.lr} must be above 0; warmup {self.warmup}, replay {self.replay} and "
                f"kl {self.kl} must not be below 0"
            )
        require_choice(f"strategy {self.name}: kl_to", self.kl_to, get_args(Reference), error=DriftError)
        require_choice(f"strategy {self.name}: divergence", self.divergence, get_args(Divergence), error=DriftError)
        require_choice(f"strategy {self.name}: documents", self.documents, get_args(Told), error=DriftError)
        if self.tags is not None and (len(self.tags) != 2 or not all(self.tags)):
            raise DriftError(f"strategy {self.name}: tags are an opening and a closing one: got {self.tags}")
        if self.lora is not None and self.freeze:
            raise DriftError(f"strategy {self.name}: LoRA freezes all but its adapters; leave freeze out, or lora")
        if any(length < 2 for length in self.lengths):
            raise DriftError(f"strategy {self.name}: lengths {self.lengths} must each be at least 2 tokens")

    @property
    def saves_adapters(self) -> bool:
        """Whether its checkpoints are adapters on the base; changed positions are part of no adapter."""
        return self.lora is not None and self.rope is None

    @property
    def follows_recall(self) -> bool:
        """Whether what is trained depends on what the probes found."""
        return self.documents == "unlearned" or (self.kl > 0 and self.kl_to == "best")

    def seeded(self, usual: int) -> int:
        """Its own seed, or the usual one."""
        return usual if self.seed is None else self.seed

    def longest(self, epoch: int, usual: int) -> int:
        """Tokens of a row in an epoch, counted from 0."""
        return self.lengths[min(epoch, len(self.lengths) - 1)] if self.lengths else usual
