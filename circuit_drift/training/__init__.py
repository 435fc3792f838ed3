"""Probes inside a training run: what the loss does not show, while it runs, without disturbing it.

from circuit_drift.behaviour import Knowledge
from circuit_drift.training import ProbeCallback, Prober, Schedule
prober = Prober("my-run", tokenizer, gauges=[Knowledge(facts)], schedule=Schedule(every=100))
trainer.add_callback(ProbeCallback(prober))           # transformers' Trainer
prober.after_step(model, step=step, loss=loss)        # or a loop of one's own
"""

from checkpoints.former import attach_face

__getattr__, __dir__, __all__ = attach_face(__name__, __file__)
