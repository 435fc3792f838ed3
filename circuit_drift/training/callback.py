"""Probes and the stopping rule as callbacks of transformers' Trainer."""

import logging
from typing import TYPE_CHECKING, Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from checkpoints.errors import BadPrompt, UnsupportedArchitecture
from circuit_drift.training.prober import Prober, ProbeRecord
from circuit_drift.training.recorder import unit_scores
from circuit_drift.training.stopping import Judgement, StoppingRule, judge

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

PREFIX = "probe_"


class ProbeCallback(TrainerCallback):
    """Probes the model of a Trainer; numbers go to the Trainer's own log as ``probe_<name>``.

    Args:
        prober: what is probed, and when.
        trainer: where numbers are logged, so that every tracker it reports to gets them; without it they go to
            ``state.log_history`` alone.
        stage: of the training, for the record.
    """

    def __init__(self, prober: Prober, *, trainer: Trainer | None = None, stage: str | None = None) -> None:
        self.prober = prober
        self.trainer = trainer
        self.stage = stage
        self._loss: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Probe the model before its first step; a resumed run goes on with what was recorded.

        Raises:
            UnsupportedArchitecture: the weights are sharded over processes, so no process holds a whole model.
        """
        if args.fsdp or args.deepspeed:
            raise UnsupportedArchitecture(
                "probes need the whole model in one process, and FSDP or DeepSpeed shard it: save checkpoints and "
                "measure them with circuit-drift run, or use circuit_drift.training.SideProber in a loop of your own"
            )
        if state.global_step:
            self.prober.resume(state.global_step)
        else:
            self._probe(state, kwargs["model"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Probe where the schedule says so."""
        self._probe(state, kwargs["model"])

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Probe where the schedule asks for epochs."""
        self._probe(state, kwargs["model"], epoch_ended=True)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Probe the trained model."""
        self._probe(state, kwargs["model"], force=True)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Remember the training loss, which is recorded beside the probes."""
        self._loss = (logs or {}).get("loss", self._loss)

    def _probe(self, state: TrainerState, model: "PreTrainedModel", **when: bool) -> None:
        if not state.is_world_process_zero:
            return
        tokens = int(state.num_input_tokens_seen) or None
        probe = self.prober.after_step(
            model, step=state.global_step, loss=self._loss, tokens=tokens, stage=self.stage, **when
        )
        if probe is not None:
            self._log(state, probe)

    def _log(self, state: TrainerState, probe: ProbeRecord) -> None:
        numbers = {PREFIX + name: value for name, value in probe.scalars.items() if name != "train_loss"}
        numbers[f"{PREFIX}share_of_time"] = self.prober.budget.used
        if self.trainer is not None:
            self.trainer.log(numbers)
        else:
            state.log_history.append({**numbers, "epoch": state.epoch, "step": state.global_step})


class StoppingCallback(TrainerCallback):
    """Ends training when the rule says that nothing more is learned; put it after its `ProbeCallback`.

    Args:
        prober: whose probes are judged.
        rule: when to stop.
        origin: step at which this stage of training began.
        by: label of the facts in whose groups forgetting is looked for.
    """

    def __init__(
        self, prober: Prober, rule: StoppingRule | None = None, *, origin: int = 0, by: str | None = None
    ) -> None:
        self.prober = prober
        self.rule = rule or StoppingRule()
        self.origin = origin
        self.by = by
        self.judgement: Judgement | None = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Judge every probe that was just taken."""
        self._judge(state, control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Judge every probe that was just taken."""
        self._judge(state, control)

    def _judge(self, state: TrainerState, control: TrainerControl) -> None:
        points = self.prober.recorder.points
        if not points or points[-1]["step"] != state.global_step:
            return
        recorder = self.prober.recorder
        try:
            scores = unit_scores(recorder.store, recorder.name)
        except BadPrompt:
            scores = None
        retrieval = [(step, found) for step, _, found in self.prober.retrieval()]
        self.judgement = judge(scores, retrieval, rule=self.rule, origin=self.origin, by=self.by)
        if self.judgement is not None and self.judgement.stop:
            logger.warning("training is stopped at step %d: %s", state.global_step, self.judgement.reason)
            control.should_training_stop = True
