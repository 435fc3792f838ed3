"""Probes inside a training run: what the loss does not show, while it runs, without disturbing it.

from circuit_drift.lab.probing import Knowledge, ProbeCallback, Prober, Schedule
prober = Prober("my-run", tokenizer, gauges=[Knowledge(facts)], schedule=Schedule(every=100))
trainer.add_callback(ProbeCallback(prober))           # transformers' Trainer
prober.after_step(model, step=step, loss=loss)        # or a loop of one's own
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuit_drift.lab.probing.budget import Budget
    from circuit_drift.lab.probing.callback import ProbeCallback, StoppingCallback
    from circuit_drift.lab.probing.choices import Choice, Choices
    from circuit_drift.lab.probing.gauges import Gauge, Knowledge, Reading, answers, panel
    from circuit_drift.lab.probing.live import LiveCheckpoint, live_model
    from circuit_drift.lab.probing.paraphrases import paraphrased
    from circuit_drift.lab.probing.prober import Probe, Prober
    from circuit_drift.lab.probing.quiet import TrainingDisturbed, undisturbed
    from circuit_drift.lab.probing.recorder import Recorder, unit_scores
    from circuit_drift.lab.probing.retrospective import probe_series
    from circuit_drift.lab.probing.schedule import Schedule
    from circuit_drift.lab.probing.skills import Arithmetic, Copying, TextPerplexity
    from circuit_drift.lab.probing.stopping import Judgement, StoppingRule, Verdict, judge, verdict

_HOMES = {
    "Arithmetic": "skills",
    "Budget": "budget",
    "Choice": "choices",
    "Choices": "choices",
    "Copying": "skills",
    "Gauge": "gauges",
    "Judgement": "stopping",
    "Knowledge": "gauges",
    "LiveCheckpoint": "live",
    "Probe": "prober",
    "ProbeCallback": "callback",
    "Prober": "prober",
    "Reading": "gauges",
    "Recorder": "recorder",
    "Schedule": "schedule",
    "StoppingCallback": "callback",
    "StoppingRule": "stopping",
    "TextPerplexity": "skills",
    "TrainingDisturbed": "quiet",
    "Verdict": "stopping",
    "answers": "gauges",
    "judge": "stopping",
    "live_model": "live",
    "panel": "gauges",
    "paraphrased": "paraphrases",
    "probe_series": "retrospective",
    "undisturbed": "quiet",
    "unit_scores": "recorder",
    "verdict": "stopping",
}

__all__ = [
    "Arithmetic",
    "Budget",
    "Choice",
    "Choices",
    "Copying",
    "Gauge",
    "Judgement",
    "Knowledge",
    "LiveCheckpoint",
    "Probe",
    "ProbeCallback",
    "Prober",
    "Reading",
    "Recorder",
    "Schedule",
    "StoppingCallback",
    "StoppingRule",
    "TextPerplexity",
    "TrainingDisturbed",
    "Verdict",
    "answers",
    "judge",
    "live_model",
    "panel",
    "paraphrased",
    "probe_series",
    "undisturbed",
    "unit_scores",
    "verdict",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"circuit_drift.lab.probing.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
