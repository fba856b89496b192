"""The metrics of each optimizer step, and the loss probes in between."""

import logging
import time
from math import nan
from typing import Any

from lightning.pytorch import Trainer

from sft.config.schema import EvalConfig
from sft.data.batches import Batch
from sft.data.datamodule import InstructionData
from sft.data.loop_state import at_epoch_end, epochs_done
from sft.device import DTYPES
from sft.metrics import Scores
from sft.objective import CrossEntropy
from sft.training.answers import ValidationAnswers
from sft.training.best import Best
from sft.training.callback import RunCallback
from sft.training.metrics_file import ANSWERED, MetricsFile, Row, prefixed, scalars
from sft.training.mfu import product_rate, step_operations
from sft.training.module import InstructionTuner
from sft.training.sanity import SanityGate

log = logging.getLogger(__name__)

# The kinds of probe, as checkpoints name those that a signal interrupted.
PROBE = "look"
VALIDATION = "validation"
ANSWERS = "answers"

# The numbers of the progress bar, and their columns in metrics.csv.
IN_BAR = {
    "loss": "train/loss",
    "acc": "train/token_accuracy",
    "norm": "grad_norm",
    "lr": "lr",
    "tok/s": "tokens_per_sec",
    "mfu": "mfu",
}


class Metrics(RunCallback):
    """Probes the losses as `eval` says, and writes a row for every optimizer step.

    A row is complete when the probes of its step are done; a step that a validation follows waits
    for that too. So a row is written before the checkpoint of its step. If a signal interrupts a
    probe, the row stays in the checkpoint, and the resumed run repeats the probe.

    Args:
        best: gets the numbers of each pass over the validation records.
        answers: answers some of them; None: none are answered.
        gate: the sanity check, whose loss the first probe may reuse; None: always measure.

    Attributes:
        row: of the step last taken, until it is written.
        owed: the probes of that row which a signal interrupted.
        seconds: spent in optimizer steps, without the probes.
        rate: floating-point operations per second of a product alone, on all ranks' devices.
    """

    def __init__(
        self,
        config: EvalConfig,
        file: MetricsFile,
        best: Best,
        answers: ValidationAnswers | None = None,
        gate: SanityGate | None = None,
    ) -> None:
        self.config = config
        self.file = file
        self.best = best
        self.answers = answers
        self.gate = gate
        self.row: Row = {}
        self.owed: list[str] = []
        self.tokens_seen = 0
        self.seconds = 0.0
        self.rate = float("inf")
        self._step_started: float | None = None

    def state_dict(self) -> dict[str, Any]:
        return {
            "tokens_seen": self.tokens_seen,
            "seconds": self.seconds,
            "row": self.row,
            "owed": self.owed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.tokens_seen = state["tokens_seen"]
        self.seconds = state["seconds"]
        self.row = state["row"]
        self.owed = state["owed"]

    def at_fit_start(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData
    ) -> None:
        # Lightning does not start training where no step is left. Otherwise the probes wait until
        # signals are listened to.
        if self.owed and trainer.max_steps == self.row["step"]:
            self._catch_up(trainer, module, data)

    def at_train_start(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData
    ) -> None:
        if self.owed:
            self._catch_up(trainer, module, data)
        self.rate = self._measured_rate(trainer, module)
        if trainer.global_step == 0 and self.config.every:
            self.row = {"step": 0, "epoch": 0, "tokens_seen": 0}
            self._probe(module, data)
            self._finish_row(trainer)

    def _catch_up(self, trainer: Trainer, module: InstructionTuner, data: InstructionData) -> None:
        owed = self.owed
        self.owed = []
        log.info(f"step {self.row['step']:g}: repeating the loss probes that a signal interrupted")
        if PROBE in owed:
            self._probe(module, data)
        if ANSWERS in owed:
            self._answer(trainer, module)
        # A run that ends here validates at its end, as it does without an interruption.
        if VALIDATION in owed or self.best.exhausted:
            module.validate(data.val_dataloader())
            self.after_validation(trainer, module, data)
        self._finish_row(trainer)

    def at_batch_start(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData
    ) -> None:
        # A step begins with the first of its micro-batches.
        if self._step_started is None:
            self._step_started = time.perf_counter()

    def after_step(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData, batch: Batch
    ) -> None:
        assert self._step_started is not None
        seconds = time.perf_counter() - self._step_started
        self._step_started = None
        self.seconds += seconds
        self.tokens_seen += batch.step_tokens

        step = trainer.global_step
        self.row = {
            "step": step,
            "epoch": epochs_done(trainer),
            "tokens_seen": self.tokens_seen,
            "train/loss": module.step_loss,
            "lr": module.step_lr,
            "tokens_per_sec": round(batch.step_tokens / seconds, 1),
            **prefixed("train/", module.step_extra),
        }
        if module.step_norm is not None:
            self.row["grad_norm"] = module.step_norm
        self.row["mfu"] = round(self._mfu(trainer, module, batch, seconds), 4)
        module.shown = {name: self.row[key] for name, key in IN_BAR.items() if key in self.row}

        # The run may end because of the answers.
        is_last = step == module.total_steps
        if self._answers_are_due(trainer, is_last):
            self._answer(trainer, module)
        is_last = is_last or self.best.exhausted

        # The last step always has a probe, so that a run's table can say "after".
        if self.config.every and (step % self.config.every == 0 or is_last):
            self._probe(module, data)
        validation_follows = data.has_validation and (at_epoch_end(trainer) or is_last)
        if not validation_follows:
            self._finish_row(trainer)

    def _measured_rate(self, trainer: Trainer, module: InstructionTuner) -> float:
        device = trainer.strategy.root_device.type
        dtype = DTYPES[trainer.precision_plugin.precision]
        return product_rate(module.model.config, device, dtype) * trainer.world_size

    def _mfu(
        self, trainer: Trainer, module: InstructionTuner, batch: Batch, seconds: float
    ) -> float:
        """Return the share of the product rate that the step of this batch reached.

        A step is not faster than its products. So where it seems to be, other processes slowed down
        the measurement of the rate, and it is measured again. The best one counts from then on.
        """
        rate = self._operations(trainer, module, batch) / seconds
        if rate > self.rate:
            self.rate = max(self.rate, self._measured_rate(trainer, module))
        return rate / self.rate

    def _operations(self, trainer: Trainer, module: InstructionTuner, batch: Batch) -> float:
        """Return the operations of the step that ended with this batch, on all ranks.

        The batch's own lengths are on the device, and reading them would wait for it.
        """
        rows = module.step_rows * trainer.world_size
        return step_operations(
            module.model.config,
            batch.step_tokens,
            batch.step_targets,
            batch.step_tokens / rows,
            frozen=not all(parameter.requires_grad for parameter in module.parameters()),
        )

    def after_validation(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData
    ) -> None:
        losses = {"val/full_loss": module.validation_loss}
        losses |= prefixed("val/full_", module.validation_extra)
        if module.average:
            module.validate_average(data.val_dataloader())
            losses["val/ema_loss"] = module.averaged_loss
        if self._add(module, VALIDATION, losses):
            self.best.see_losses(module.validation_loss, module.averaged_loss)
            is_probed = "train/eval_loss" in self.row
            if self.best.exhausted and self.config.every and not is_probed:
                self._probe(module, data)
        self._finish_row(trainer)

    def _answers_are_due(self, trainer: Trainer, is_last: bool) -> bool:
        """Return whether records are answered after this step."""
        if self.answers is None:
            return False
        if self.config.answers_every is None:
            return is_last or at_epoch_end(trainer)
        return is_last or trainer.global_step % self.config.answers_every == 0

    def _answer(self, trainer: Trainer, module: InstructionTuner) -> None:
        """Answer validation records, with the averaged weights too if these may be kept."""
        assert self.answers is not None
        scores = self.answers.means(trainer, module)
        averaged: Scores = {}
        if module.average and self.best.metric in scores:
            with module.average.in_place():
                averaged = self.answers.means(trainer, module, note=False)
        numbers = {key: scores.get(name, nan) for key, name in ANSWERED.items()}
        if self._add(module, ANSWERS, numbers):
            self.best.see_scores(scores, averaged)

    def _probe(self, module: InstructionTuner, data: InstructionData) -> None:
        """Take the losses of the first batches of train and validation."""
        count = self.config.batches
        known = self._loss_at_gate(module, data)
        if known is None:
            known = module.mean_loss(data.first_batches("train", count))
        losses = {"train/eval_loss": known}
        if data.has_validation:
            losses["val/loss"] = module.mean_loss(data.first_batches("validation", count))
            losses |= prefixed("val/", module.probe_extra)
        self._add(module, PROBE, losses)

    def _loss_at_gate(self, module: InstructionTuner, data: InstructionData) -> float | None:
        """Return the loss of the train batches if the gate has just measured it, else None.

        It is measured on the same rows. If training learns the answers alone, the labels and the
        loss are the same too.
        """
        same_loss = isinstance(module.objective, CrossEntropy)
        same_labels = data.splits["train"].examples.mask_prompt
        if self.gate is None or self.row["step"] or not (same_loss and same_labels):
            return None
        return self.gate.loss

    def _add(self, module: InstructionTuner, probe: str, numbers: Row) -> bool:
        """Put the numbers into the row; return False if a signal interrupted the probe instead."""
        if module.signals.interrupted:
            self.owed.append(probe)
            return False
        self.row |= numbers
        return True

    def _finish_row(self, trainer: Trainer) -> None:
        if not self.row or self.owed:
            return
        # A run that was killed after it had repeated the probes has the row already.
        if trainer.is_global_zero and not self.file.has(self.row["step"]):
            self.file.append(self.row)
            for tracker in trainer.loggers:
                tracker.log_metrics(scalars(self.row), int(self.row["step"]))
        self.row = {}
