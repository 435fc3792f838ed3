"""SFT probing: what a checkpoint can do after a short supervised fine-tune, the same for every checkpoint of a series.

A base model may hold a skill that it does not show. Following arXiv 2604.02650, 3.1, a copy of each checkpoint is
fine-tuned briefly on question and answer pairs of the tasks' own form (other needles, other text), then asked: RULER's
variants, LongBio, MRCR. The checkpoint itself stays as it is.

    circuit-drift run SERIES --measures sft,sft:lora=16,sft:train=mine.jsonl
    circuit-drift track --downstream sft
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from checkpoints import DriftError, Series
from checkpoints.errors import BadPrompt
from checkpoints.loading.load import LoadedModel
from checkpoints.model.rope import of_one_regime
from checkpoints.placement import Placement, Where
from circuit_drift.behaviour.generation import string_matches
from circuit_drift.behaviour.result import BehaviourMeasure, TaskScore, TaskScores, interval_of
from circuit_drift.behaviour.suites import WRITTEN, family, make_task, suite_for
from circuit_drift.behaviour.table import BehaviourTable, behaviour_table
from circuit_drift.behaviour.tuning import IGNORED, Resumable, Tuning, answer_logits, fine_tune, tuning_of
from circuit_drift.measures.base import Asked
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.store.store import Store
from circuits.facts.questions import Question, read_questions, tokenize_questions
from heads.prompts.needles import NeedlePrompt, NeedleSet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TRAINING_SEED = 1_000_003
MATCH = "string_match"
Values = dict[str, np.ndarray]
"""Metric -> [N], a number for each prompt."""
OWN = ("train", "test")
"""Fields that hold questions of a user's own files."""


@dataclass(frozen=True)
class SftMeasure(BehaviourMeasure):
    """Tune a copy, then ask: scores ``pass@k``, ``accuracy``, ``answer_nll``, each also ``_before`` the fine-tune.

    They are of the whole answer, teacher-forced. Tasks of RULER whose answer is several words in any order, and its
    question answering, are written too: ``string_match``, as RULER scores them (`suites.WRITTEN`).

    Attributes:
        tasks: names (`suites.make_task`).
        tuning: the same for every checkpoint.
        length: tokens of a prompt.
        depths: of the needles.
        count: test needles of each task.
        attempts: k of pass@k.
        temperature: at which the attempts are sampled.
        seed: of the test; training needles are drawn from another one.
        batch_size: test prompts in a forward pass; changes no number beyond rounding.
        train: questions and answers of one's own to tune on, in the place of prompts of the tasks.
        test: questions and answers of one's own to be asked besides, as the task ``own``.
    """

    tasks: tuple[str, ...]
    tuning: Tuning = field(default_factory=Tuning)
    length: int = 256
    depths: tuple[float, ...] = (0.1, 0.5, 0.9)
    count: int = 8
    attempts: int = 3
    temperature: float = 1.0
    seed: int = 0
    batch_size: int = 16
    train: tuple[Question, ...] = ()
    test: tuple[Question, ...] = ()

    name = "sft"
    version = 3

    def __post_init__(self) -> None:
        if not (self.tasks or self.test) or self.attempts < 1 or self.temperature <= 0 or self.count < 1:
            raise BadPrompt(f"a behavioural test needs tasks, attempts and count >= 1, temperature > 0: got {self}")
        for task in self.tasks:
            make_task(task, seed=0, count=1)

    @classmethod
    def build(cls, asked: Asked) -> "SftMeasure":
        """The tasks named, ``sft:TASK``, else those that the first checkpoint's tokenizer can pose.

        ``sft:train=FILE`` tunes on questions of one's own, ``sft:test=FILE`` asks such; ``sft:lora=16``,
        ``sft:steps=200`` and so on are fields of `Tuning`.
        """
        tasks = tuple(argument for argument in asked.arguments if "=" not in argument)
        options = dict(argument.split("=", 1) for argument in asked.arguments if "=" in argument)
        train, test = (tuple(read_questions(Path(options.pop(name)))) if name in options else () for name in OWN)
        tuning = tuning_of(options)
        if not tasks and not test:
            if asked.checkpoint is None:
                raise DriftError("sft chooses its tasks by a checkpoint's tokenizer, and there is none; say sft:TASK")
            tasks = suite_for(tokenizer_of(asked.checkpoint))
        return cls(tasks, tuning, asked.prompts.needles.length, train=train, test=test)

    def params(self) -> dict[str, Any]:
        """The fine-tune, the test and its words; the batch size of the test changes no number."""
        about = {name: value for name, value in asdict(self).items() if name not in ("batch_size", *OWN)}
        about |= {name: _told(getattr(self, name)) for name in OWN if getattr(self, name)}
        if not self.tuning.lora:
            del about["tuning"]["lora"]  # results of before it was there stay what they are
        words = {task: _words(task, self.seed, self.count) for task in self.tasks}
        return json.loads(json.dumps({**about, "words": words}))  # type: ignore[no-any-return]

    def compute(self, loaded: LoadedModel, earlier: Any) -> TaskScores:
        """Scores of every task that the tokenizer can pose, before and after the fine-tune.

        Raises:
            BadPrompt: none of the tasks can be posed.
            DriftError: the fine-tune diverged.
        """
        tokenizer = tokenizer_of(loaded)
        tests, refused = self._tests(tokenizer)
        training = self._training(tokenizer, tests)
        before = self._ask(loaded.model, tokenizer, tests)
        after = [
            self._ask(fine_tune(loaded.model, training, self.tuning, seed=seed, resume=resume), tokenizer, tests)
            for seed, resume in ((seed, self._resumable(loaded, seed)) for seed in self.tuning.seeds)
        ]
        for seed in self.tuning.seeds:
            if (resume := self._resumable(loaded, seed)) is not None:
                resume.done()
        scores = [score for task in tests for score in _scores(task, before[task], [run[task] for run in after])]
        meta = {"training_prompts": len(training)}
        return TaskScores(tuple(scores), _columns(scores, self.metric), refused, meta)

    @property
    def metric(self) -> str:
        """The headline: pass@k."""
        return f"pass@{self.attempts}"

    def _tests(self, tokenizer: "PreTrainedTokenizerBase") -> tuple[dict[str, NeedleSet], dict[str, str]]:
        tests, refused = {}, {}
        for task in self.tasks:
            found = self._prompts(tokenizer, task, seed=self.seed, count=self.count)
            if found.refused:
                refused[task] = f"{len(found.refused)} of {self.count} needles: {found.refused[0][1]}"
            if len(found):
                tests[task] = found
        if self.test:
            tests["own"] = _own(tokenizer, self.test)
            if tests["own"].refused:
                refused["own"] = f"{len(tests['own'].refused)} questions: {tests['own'].refused[0][1]}"
        if not tests:
            reasons = "; ".join(f"{task}: {why}" for task, why in refused.items())
            raise BadPrompt(f"none of the tasks can be posed in {self.length} tokens to this tokenizer: {reasons}")
        return tests, refused

    def _training(
        self, tokenizer: "PreTrainedTokenizerBase", tests: "dict[str, NeedleSet]"
    ) -> tuple[NeedlePrompt, ...]:
        """Prompts of the same tasks with other words, or of one's own; one that equals a test prompt is left out."""
        seen = {prompt.ids for found in tests.values() for prompt in found}
        if self.train:
            made = [prompt for prompt in _own(tokenizer, self.train) if prompt.ids not in seen]
            if not made:
                raise BadPrompt("every question to tune on is one that is asked afterwards: keep them apart")
            return tuple(made)
        rounds = -(-self.tuning.needles // self.count)
        made = [
            prompt
            for task in tests
            if task != "own"
            for turn in range(rounds)
            for prompt in self._prompts(tokenizer, task, seed=self.seed + TRAINING_SEED + turn, count=self.count)
            if prompt.ids not in seen and turn * self.count + prompt.needle < self.tuning.needles
        ]
        if not made:
            raise BadPrompt(
                "no training prompt could be built: shorten the needles or raise the length, or name questions to tune "
                "on with sft:train=FILE"
            )
        return tuple(made)

    def _prompts(self, tokenizer: "PreTrainedTokenizerBase", task: str, *, seed: int, count: int) -> NeedleSet:
        made = make_task(task, seed=seed, count=count)
        return made.prompts(tokenizer, length=self.length, depths=self.depths, seed=seed)

    def _resumable(self, loaded: LoadedModel, seed: int) -> Resumable | None:
        """Where the state of this very fine-tune is kept; nowhere for a model that no checkpoint identifies."""
        checkpoint = getattr(loaded, "checkpoint", None)
        if checkpoint is None:
            return None
        identity = [checkpoint.weights_hash, checkpoint.tokenizer_hash, checkpoint.config_hash]
        return Resumable.of({"of": identity, "dtype": loaded.dtype, "seed": seed, "how": self.params()})

    def _ask(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", tests: "Mapping[str, NeedleSet]"
    ) -> "dict[str, Values]":
        found = {}
        for task, asked in tests.items():
            run = answered(model, asked.prompts, self.temperature, self.batch_size)
            passed = 1 - (1 - run.chance) ** self.attempts
            found[task] = {self.metric: passed, "accuracy": run.correct, "answer_nll": run.nll}
            if task in WRITTEN:
                matches = string_matches(
                    model, tokenizer, asked.prompts, new_tokens=WRITTEN[task], batch_size=self.batch_size
                )
                found[task][MATCH] = np.array(matches)
        return found


def _scores(task: str, before: "Values", after: "Sequence[Values]") -> list[TaskScore]:
    columns = {name: np.mean([run[name] for run in after], axis=0) for name in before}
    columns |= {f"{name}_before": value for name, value in before.items()}
    return [TaskScore(task, name, *interval_of(name, value), len(value)) for name, value in columns.items()]


def _columns(scores: Sequence[TaskScore], metric: str) -> dict[str, float]:
    """The headline of every family, the mean over its tasks, and the mean over those that are written."""
    grouped: dict[str, list[float]] = {}
    for score in scores:
        if score.metric in (metric, MATCH):
            own = f"sft_{family(score.task)}"
            grouped.setdefault(own if score.metric == metric else f"{own}_{MATCH}", []).append(score.value)
    return {name: float(np.mean(values)) for name, values in grouped.items()}


def _told(questions: Sequence[Question]) -> str:
    """Hash of questions, by which they are known in a key."""
    return hashlib.sha256(json.dumps([asdict(each) for each in questions], sort_keys=True).encode()).hexdigest()


def _own(tokenizer: "PreTrainedTokenizerBase", questions: Sequence[Question]) -> NeedleSet:
    """Questions as prompts with answers; nothing is hidden in them."""
    asked = tokenize_questions(tokenizer, questions)
    prompts = tuple(
        NeedlePrompt((*clean, *answer), len(clean), (), (), (), (len(clean), len(clean)), math.nan, math.nan, number)
        for number, (clean, answer) in enumerate(zip(asked.clean, asked.answer, strict=True))
    )
    return NeedleSet(prompts, asked.refused, max(len(clean) for clean in asked.clean), asked.front)


@cache
def _words(task: str, seed: int, count: int) -> str:
    """Hash of what a task asks, so that a change of its words is another measure."""
    made = make_task(task, seed=seed, count=count)
    content = json.dumps([[asdict(needle) for needle in made.needles], made.haystack])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Answered:
    """What a model makes of each prompt's answer, each array [N].

    Attributes:
        correct: 1 where greedy decoding writes the whole answer.
        chance: probability that one sampled answer is the whole answer, so that pass@k = 1 - (1 - chance)^k exactly.
        nll: mean over the answer's tokens, in nats.
    """

    correct: np.ndarray
    chance: np.ndarray
    nll: np.ndarray


def answered(
    model: "PreTrainedModel", prompts: Sequence[NeedlePrompt], temperature: float = 1.0, batch_size: int = 16
) -> Answered:
    """Score answers by teacher forcing, which gives greedy accuracy and the chance of a sampled answer alike.

    Args:
        model: in eval mode.
        prompts: with their answers.
        temperature: of the sampling.
        batch_size: prompts in a forward pass.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from heads.detect.retrieval import check_fits

    check_fits(model, prompts)
    correct, chance, nll = [], [], []
    in_order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
    order = list[int]()
    for batch in _together(model, prompts, in_order, batch_size):
        order += batch
        with torch.no_grad():
            logits, targets = answer_logits(model, [prompts[i] for i in batch])
        asked = targets != IGNORED
        hits = (logits.argmax(dim=-1) == targets) | ~asked
        plain, heated = (cross_entropy((logits / t).transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")
                         for t in (1.0, temperature))  # fmt: skip
        correct += hits.all(dim=1).double().tolist()
        chance += (-heated.double().sum(dim=1)).exp().tolist()
        nll += (plain.double().sum(dim=1) / asked.sum(dim=1)).tolist()
    place = np.argsort(order)
    return Answered(*(np.array(values)[place] for values in (correct, chance, nll)))


def _together(
    model: "PreTrainedModel", prompts: Sequence[NeedlePrompt], order: Sequence[int], size: int
) -> Iterator[list[int]]:
    """Prompts to run in one pass, in an order; apart where their lengths would change each other."""
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        for places in of_one_regime(model, [len(prompts[i].ids) for i in batch]):
            yield [batch[place] for place in places]


def sft_probe(
    series: Series,
    *,
    tasks: Sequence[str] | None = None,
    tuning: Tuning | None = None,
    length: int = 256,
    depths: Sequence[float] = (0.1, 0.5, 0.9),
    count: int = 8,
    seed: int = 0,
    store: Store | Path | str | None = None,
    placement: Placement | None = None,
    progress: bool = True,
    **where: Unpack[Where],
) -> BehaviourTable:
    """Tune a copy of each checkpoint alike and test it; a run that is killed goes on with the next checkpoint.

    Args:
        series: checkpoints with steps; `Series.select` chooses among them.
        tasks: names (`suites.make_task`); by default RULER, LongBio and MRCR, or the lab's own for its series.
        tuning: the fine-tune.
        length: tokens of a prompt.
        depths: of the needles.
        count: test needles of each task.
        seed: of the test.
        store: where results are kept.
        placement: device, dtype, attention implementation and device map (`checkpoints.Placement`).
        progress: show progress bars where there is a terminal or a notebook.
        where: fields of a placement by themselves: ``device="cuda"``, ``dtype="bfloat16"``.

    Returns:
        the table; `BehaviourTable.to_downstream` feeds ``heads.track(..., downstream=)``.

    Raises:
        BadPrompt: a task that there is not, or none that can be posed.
        DriftError: no checkpoint could be tuned and tested.
    """
    chosen = tuple(tasks) if tasks else default_tasks(series)
    measure = SftMeasure(chosen, tuning or Tuning(), length, tuple(depths), count, seed=seed)
    return behaviour_table(
        series,
        measure,
        store=store,
        placement=Placement.of(placement, where),
        progress=progress,
    )


def default_tasks(series: Series) -> tuple[str, ...]:
    """The tasks for a series, by the tokenizer of its first checkpoint."""
    return suite_for(tokenizer_of(series[0]))
