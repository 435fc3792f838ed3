"""Any task of lm-evaluation-harness on the checkpoints of a series, through its library.

    circuit-drift evaluate SERIES --tasks hellaswag,mmlu --limit 200 --out downstream.csv
    circuit-drift evaluate SERIES --tasks own_task --include FOLDER     # tasks of one's own, in its YAML

The harness loads a task's data itself: from the hub, or from files that a task of one's own names. A task may bring
code; an own folder is run as its owner's, and tasks that the harness marks as unsafe are refused.
"""

import hashlib
import io
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack
from unittest.mock import patch

from checkpoints import DriftError, Series
from checkpoints.errors import BadPrompt
from checkpoints.loading.load import LoadedModel
from checkpoints.model.finite import finite_logits
from checkpoints.placement import Placement, Where
from circuit_drift.behaviour.randomness import random_states
from circuit_drift.behaviour.result import BehaviourMeasure, TaskScore, TaskScores
from circuit_drift.behaviour.table import BehaviourTable, behaviour_table
from circuit_drift.measures.base import Asked
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.store.store import Store
from circuit_drift.sweep.workers.progress import has_viewer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from circuit_drift.behaviour import Reading

MISSING = "lm-evaluation-harness is not installed: pip install 'circuit-drift[eval]'"
BOOTSTRAP = 1000


@dataclass(frozen=True)
class HarnessMeasure(BehaviourMeasure):
    """Tasks of the harness on one checkpoint; as a gauge, the same inside a training loop.

    Attributes:
        tasks: names of tasks, groups or tags.
        include: folder with tasks of one's own.
        limit: items of each task; None = all.
        shots: worked examples in front of each item; None = as the task says.
        batch_size: items in a forward pass.
        seed: of the choice of examples.
    """

    tasks: tuple[str, ...]
    include: Path | None = None
    limit: int | None = None
    shots: int | None = None
    batch_size: int = 8
    seed: int = 0

    name = "harness"

    def __post_init__(self) -> None:
        if not self.tasks or (self.limit is not None and self.limit < 1) or (self.shots or 0) < 0:
            raise BadPrompt(f"the harness needs tasks, a limit of at least 1 and no negative shots: got {self}")
        if self.include is not None and not self.include.is_dir():
            raise BadPrompt(f"{self.include} is no folder; put the YAML files of own tasks into one")

    @classmethod
    def build(cls, asked: Asked) -> "HarnessMeasure":
        """The tasks named, ``harness:TASK``; of one's own with ``harness:folder=DIR``; ``limit=100``, ``shots=5``."""
        tasks = tuple(argument for argument in asked.arguments if "=" not in argument)
        options = dict(argument.split("=", 1) for argument in asked.arguments if "=" in argument)
        if not tasks:
            raise DriftError("the harness needs tasks: say harness:TASK, once for each, as in harness:hellaswag")
        folder = options.pop("folder", None)
        if not options.keys() <= {"limit", "shots"} or not all(value.isdecimal() for value in options.values()):
            told = ", ".join(f"{name}={value}" for name, value in options.items())
            raise DriftError(f"the harness takes tasks, folder=DIR, and numbers for limit and shots; got {told}")
        return cls(tasks, Path(folder) if folder else None, **{name: int(value) for name, value in options.items()})

    def params(self) -> dict[str, Any]:
        """Tasks, options, the harness' own version, and the content of the folder of own tasks."""
        return {
            "tasks": list(self.tasks),
            "limit": self.limit,
            "shots": self.shots,
            "seed": self.seed,
            "harness": _version(),
            "own": _content(self.include) if self.include else None,
        }

    def compute(self, loaded: LoadedModel, earlier: Mapping[str, Any]) -> TaskScores:
        """Every metric of every task that can be run.

        Raises:
            DriftError: the harness is not installed, or none of the tasks can be run.
        """
        evaluate, wrap = _harness()
        scores: list[TaskScore] = []
        refused: dict[str, str] = {}
        with _quietly(), _as_it_is(loaded.model), finite_logits(loaded.model):
            lm = wrap(pretrained=loaded.model, tokenizer=tokenizer_of(loaded), batch_size=self.batch_size)
            for task in self.tasks:
                try:
                    scores += _scores(evaluate(lm, **self._options(task)))
                except Exception as error:  # a task that cannot be run must not stop the others
                    refused[task] = f"{type(error).__name__}: {error}"
        if not scores:
            reasons = "; ".join(f"{task}: {why}" for task, why in refused.items())
            raise DriftError(f"the harness could run none of the tasks. {reasons}")
        columns = {f"{score.task}_{score.metric}": score.value for score in scores}
        return TaskScores(tuple(scores), columns, refused)

    def read(self, loaded: LoadedModel) -> "Reading":
        """The same as a gauge of a run in progress (`lab.probing.Prober`)."""
        from circuit_drift.behaviour import Reading

        return Reading(self.compute(loaded, {}).columns)

    def _options(self, task: str) -> dict[str, Any]:
        return {
            "tasks": [task],
            "task_manager": _manager(self.include, task),
            "limit": self.limit,
            "num_fewshot": self.shots,
            "log_samples": False,
            "bootstrap_iters": BOOTSTRAP,
            "random_seed": self.seed,
            "numpy_random_seed": self.seed,
            "torch_random_seed": self.seed,
            "fewshot_random_seed": self.seed,
        }


def harness_probe(
    series: Series,
    tasks: Sequence[str],
    *,
    include: Path | str | None = None,
    limit: int | None = None,
    shots: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
    store: Store | Path | str | None = None,
    placement: Placement | None = None,
    progress: bool = True,
    **where: Unpack[Where],
) -> BehaviourTable:
    """Run tasks of the harness on every checkpoint; a run that is killed goes on with the next one.

    Args:
        series: checkpoints with steps.
        tasks: names of tasks, groups or tags.
        include: folder with tasks of one's own.
        limit: items of each task.
        shots: worked examples in front of each item.
        batch_size: items in a forward pass.
        seed: of the choice of examples.
        store: where results are kept.
        placement: device, dtype, attention implementation and device map (`checkpoints.Placement`).
        progress: show progress bars where there is a terminal or a notebook.
        where: fields of a placement by themselves: ``device="cuda"``, ``dtype="bfloat16"``.

    Raises:
        BadPrompt: options that make no sense.
        DriftError: the harness is not installed, or no task could be run on any checkpoint.
    """
    _version()
    folder = Path(include) if include is not None else None
    measure = HarnessMeasure(tuple(tasks), folder, limit, shots, batch_size, seed)
    return behaviour_table(
        series,
        measure,
        store=store,
        placement=Placement.of(placement, where),
        progress=progress,
    )


def _harness() -> tuple[Any, Any]:
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise DriftError(MISSING) from error
    return simple_evaluate, HFLM


@cache
def _version() -> str:
    from importlib.metadata import PackageNotFoundError

    try:
        return version("lm_eval")
    except PackageNotFoundError as error:
        raise DriftError(MISSING) from error


def _manager(include: Path | None, task: str) -> Any:
    """The tasks of the folder alone where they hold this one; else the harness' own too, which take long to list."""
    if include is not None and task in (own := _tasks(include, defaults=False)).all_tasks:
        return own
    return _tasks(include, defaults=True)


@cache
def _tasks(include: Path | None, *, defaults: bool) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(include) if include else None, include_defaults=defaults)


def _scores(found: Mapping[str, Any]) -> Iterator[TaskScore]:
    """The results of one evaluation: keys are ``metric,filter``, with the standard error beside."""
    for task, row in found["results"].items():
        n = found["n-samples"].get(task, {}).get("effective", 0)
        for key, value in row.items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = row.get(f"{metric}_stderr,{filtered}")
            half = 1.96 * error if isinstance(error, (int, float)) else math.nan
            name = metric if filtered == "none" else f"{metric}_{filtered}"
            yield TaskScore(task, name, float(value), float(value - half), float(value + half), n)


def _content(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


@contextmanager
def _as_it_is(model: "PreTrainedModel") -> Iterator[None]:
    """Keep the harness from tying a model's weights again as its config says: it may hold a head of its own."""
    vars(model)["tie_weights"] = lambda *_, **__: None
    try:
        yield
    finally:
        del vars(model)["tie_weights"]


@contextmanager
def _quietly() -> Iterator[None]:
    """Random states as they were, no progress bars where nobody looks on, and nothing told of what is meant to be so.

    That is that the model was loaded already. The harness also asks git and the machine what they are, in a dozen other
    processes after every task; nothing reads that.
    """
    import lm_eval.evaluator

    told = logging.getLogger("lm_eval.models.huggingface")
    level = told.level
    told.setLevel(logging.ERROR)
    try:
        with (
            random_states(),
            patch.multiple(lm_eval.evaluator, create=True, get_git_commit_hash=_nothing, add_env_info=_nothing),
            nullcontext() if has_viewer() else redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        told.setLevel(level)


def _nothing(*_: Any) -> str:
    return ""
