"""The base class of a run's callbacks: typed hooks."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from sft.data.batches import Batch
from sft.data.datamodule import InstructionData
from sft.data.loop_state import datamodule_of, took_step
from sft.training.module import InstructionTuner


class RunCallback(Callback):
    """A callback whose hooks get the run's own module and data, with their types.

    Lightning's hooks get a bare LightningModule and no data. This class checks the types once and
    calls the hooks below, which a subclass overrides instead of Lightning's.
    """

    def at_fit_start(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData
    ) -> None:
        """Called before anything else, also when no step is left to take."""

    def at_train_start(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData
    ) -> None:
        """Called before the first step of this process; a resumed run has its state by now."""

    def at_batch_start(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData
    ) -> None:
        """Called before each micro-batch."""

    def after_step(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData, batch: Batch
    ) -> None:
        """Called after each optimizer step; `batch` is its last micro-batch."""

    def after_validation(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData
    ) -> None:
        """Called after each pass over the validation split."""

    def after_epoch(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData
    ) -> None:
        """Called after the last step of each epoch, and after the validation that follows it."""

    def at_train_end(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData
    ) -> None:
        """Called after the last step of the run."""

    # Lightning's hooks

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.at_fit_start(*_typed(trainer, pl_module))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.at_train_start(*_typed(trainer, pl_module))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.at_batch_start(*_typed(trainer, pl_module))

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if took_step(trainer, batch_idx):
            self.after_step(*_typed(trainer, pl_module), batch)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.after_validation(*_typed(trainer, pl_module))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.after_epoch(*_typed(trainer, pl_module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.at_train_end(*_typed(trainer, pl_module))


def _typed(
    trainer: Trainer, module: LightningModule
) -> tuple[Trainer, InstructionTuner, InstructionData]:
    data = datamodule_of(trainer)
    assert isinstance(module, InstructionTuner)
    assert isinstance(data, InstructionData)
    return trainer, module, data
