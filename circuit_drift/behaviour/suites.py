"""Retrieval tasks for a behavioural test: RULER's, LongBio's and MRCR's forms, and suites in other words.

Every task is a `heads.prompts.probes.Probe`: needles with answers, and the haystack they are hidden in, a pure
function of name, seed and count. A suite is for series whose tokenizer knows no words but its own, as that of the
synthetic world; a package may bring one (entry point group ``circuit_drift.suites``).
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import heads
from checkpoints.errors import BadPrompt
from circuit_drift.plugins import offered
from heads.prompts.lists import LISTS, ListProbe
from heads.prompts.probes import PROBES, Probe, probe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GROUP = "circuit_drift.suites"
BUILT_IN = {"lab": "circuit_drift.lab.suite:SUITE"}
STANDARD = (*(name for name in PROBES if name.startswith(("ruler_", "variable_", "longbio_", "mrcr"))), *LISTS)
"""RULER's needle variants, variable tracking, question answering, common and frequent words; LongBio's three forms;
MRCR's three, with two, four and eight answers to tell apart."""

WRITTEN: Mapping[str, int] = {
    "ruler_cwe": 120,
    "ruler_fwe": 50,
    "ruler_qa": 32,
    "variable_tracking": 30,
    "ruler_multivalue": 128,
    "ruler_multiquery": 128,
}
"""Tasks that RULER scores by which words stand anywhere in what is written, and the tokens that it allows for that."""

Made = tuple[list[heads.Needle], str | tuple[str, ...]]
Maker = Callable[[random.Random, int], Made]


@dataclass(frozen=True, slots=True)
class Suite:
    """Tasks in words of their own.

    Attributes:
        tasks: name -> what makes so many needles, and the haystack for them.
        fits: whether a tokenizer is one that these words are for.
    """

    tasks: Mapping[str, Maker]
    fits: "Callable[[PreTrainedTokenizerBase], bool]"


def family(task: str) -> str:
    """The benchmark that a task belongs to: ``ruler``, ``longbio``, ``mrcr``, or the first word of a suite's own."""
    return "ruler" if task == "variable_tracking" else task.partition("_")[0]


def make_task(name: str, *, seed: int, count: int) -> Probe | ListProbe:
    """A task by name.

    Args:
        name: one of `STANDARD`, of a suite, or any other of `heads.prompts.probes.PROBES`.
        seed: of words and places.
        count: needles.

    Raises:
        BadPrompt: there is no such task.
    """
    if name in LISTS:
        return ListProbe(name, count, seed)
    if name in PROBES:
        return probe(name, seed=seed, count=count)
    makers = {task: make for suite in _suites() for task, make in suite.tasks.items()}
    if name not in makers:
        raise BadPrompt(f"no task is called {name!r}; there are {', '.join((*PROBES, *LISTS, *makers))}")
    needles, hay = makers[name](random.Random(f"{name}/{seed}"), count)
    return Probe(name, tuple(needles), hay)


def suite_for(tokenizer: "PreTrainedTokenizerBase") -> tuple[str, ...]:
    """The tasks that a tokenizer can pose: the standard ones, or those of the suite that is made for it."""
    return next((tuple(suite.tasks) for suite in _suites() if suite.fits(tokenizer)), STANDARD)


def _suites() -> Iterator[Suite]:
    for point in offered(GROUP, BUILT_IN):
        yield point.load()
