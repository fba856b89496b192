"""A run's folder while it trains: the checkpoint, the best weights, the link to the folder."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch import LightningModule, Trainer

from sft.config.schema import TrainConfig
from sft.data.batches import Batch
from sft.data.datamodule import InstructionData
from sft.data.loop_state import at_epoch_end, epochs_done
from sft.gpt2.model import GPT
from sft.latest import point
from sft.shell import setting, shown
from sft.summaries import RUN_SUMMARY
from sft.training.best import Best
from sft.training.callback import RunCallback
from sft.training.checkpoints import last
from sft.training.module import InstructionTuner
from sft.training.sharding import unsharded_model

log = logging.getLogger(__name__)


class RunFolder(RunCallback):
    """Keeps a run's folder up to date, and ends the run: at its last step, or on a signal.

    Args:
        made_of: hashes of what the run began with, kept in its checkpoints.
        best: says when the weights are the best so far, and when the run ends for lack of better
            ones.
        save_model: writes a model as `model/`. It is called on rank 0 when the weights are the best
            so far, or, without a validation split, at the end.
        latest: the link that is turned to `folder` once training begins.
    """

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        made_of: dict[str, str],
        best: Best,
        save_model: Callable[[GPT], None],
        latest: Path,
    ) -> None:
        self.folder = folder
        self.config = config
        self.made_of = made_of
        self.save_model = save_model
        self.latest = latest
        self.best = best
        self._saved_at = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return self.best.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best.load_state_dict(state)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["config"] = dataclasses.asdict(self.config)
        checkpoint["made_of"] = self.made_of
        checkpoint["without_better"] = self.best.without_better

    # The hooks, in the order in which a run comes to them

    def at_fit_start(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData
    ) -> None:
        # Where no step is left, Metrics has just repeated an interrupted validation.
        self._keep_if_best(trainer, module)

    def at_train_start(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData
    ) -> None:
        if module.signals.interrupted:
            self._leave(trainer, module)

        # Metrics may have repeated an interrupted validation, see above.
        self._keep_if_best(trainer, module)
        self._stop_if_exhausted(trainer)

        # A resumed run is not finished any more.
        if trainer.is_global_zero:
            (self.folder / RUN_SUMMARY).unlink(missing_ok=True)
            point(self.latest, self.folder)
            module.signals.wants_checkpoint = self._is_due
        self._saved_at = time.monotonic()

    def after_step(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData, batch: Batch
    ) -> None:
        signals = module.signals
        every = self.config.checkpoint.every

        # The last step may lie inside an epoch. Lightning still runs the validation, and
        # `after_validation` saves. Metrics may have answered validation records.
        self._keep_if_best(trainer, module)
        if trainer.global_step >= module.total_steps or self.best.exhausted:
            trainer.should_stop = True
            if not data.has_validation:
                self._save_inside_epoch(trainer)
            return

        due_by_steps = every is not None and trainer.global_step % every == 0
        if signals.checkpoint_due or signals.agreed or due_by_steps:
            self._save_inside_epoch(trainer)

        # At an epoch's end the validation comes first, and `after_epoch` leaves.
        if signals.agreed and not at_epoch_end(trainer):
            self._leave(trainer, module)

    def after_validation(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData
    ) -> None:
        self._keep_if_best(trainer, module)
        self._stop_if_exhausted(trainer)
        self._save_inside_epoch(trainer)

    def after_epoch(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData
    ) -> None:
        signals = module.signals
        if not signals.interrupted:
            loss = module.validation_loss
            if not math.isnan(loss):
                numbers = {"validation loss": loss}
                for name, value in module.validation_extra.items():
                    # With a masked prompt the loss is that of the answers.
                    if not math.isclose(value, loss):
                        numbers[name.replace("_", " ")] = value
                if module.average:
                    numbers["with averaged weights"] = module.averaged_loss
                shown = ", ".join(f"{name} {value:.4f}" for name, value in numbers.items())
                log.info(f"epoch {epochs_done(trainer):g}: {shown}")
        if at_epoch_end(trainer):
            self._save(trainer)
        steps_left = trainer.global_step < module.total_steps and not self.best.exhausted
        if signals.interrupted or (signals.agreed and steps_left):
            self._leave(trainer, module)

    def at_train_end(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData
    ) -> None:
        if self.best.value == float("inf"):
            self._write_model(trainer, module)

    # Their parts

    def _is_due(self) -> bool:
        """Return whether the checkpoint by time is due, by the clock of this rank."""
        minutes = self.config.checkpoint.minutes
        return minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes

    def _save_inside_epoch(self, trainer: Trainer) -> None:
        """Save, unless the epoch ends here: `after_epoch` saves when Lightning has counted it."""
        if not at_epoch_end(trainer):
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(last(self.folder))
        self._saved_at = time.monotonic()

    def _keep_if_best(self, trainer: Trainer, module: InstructionTuner) -> None:
        """Write the plain or the averaged weights, if one of them is the best so far."""
        if self.best.unsaved == "averaged":
            assert module.average is not None
            with module.average.in_place():
                self._write_model(trainer, module)
        elif self.best.unsaved == "plain":
            self._write_model(trainer, module)
        self.best.unsaved = None

    def _stop_if_exhausted(self, trainer: Trainer) -> None:
        if self.best.exhausted:
            trainer.should_stop = True

    def _write_model(self, trainer: Trainer, module: InstructionTuner) -> None:
        """Write the present weights as `model/`. Collective."""
        model = unsharded_model(module.model)
        if trainer.is_global_zero:
            self.save_model(model)
        trainer.strategy.barrier()

    def _leave(self, trainer: Trainer, module: InstructionTuner) -> NoReturn:
        """End the process, as every other rank does, on the signal that they agreed on."""
        assert module.signals.agreed is not None
        name = module.signals.agreed.name
        if trainer.global_step:
            log.info(
                f"{name}: stopped after step {trainer.global_step}; continue with python "
                f"train.py {setting('resume', shown(self.folder))}"
            )
        else:
            log.info(f"{name}: stopped before the first step")
        module.signals.leave_together()
