"""The progress bar."""

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from sft.bars import Bar, redraws
from sft.training.module import InstructionTuner

# The metrics that the bar shows, and their format.
SHOWN = {"loss": ".3f", "acc": ".0%", "norm": ".2f", "lr": ".1e", "tok/s": ",.0f", "mfu": ".0%"}


class Progress(TQDMProgressBar):
    """Lightning's bar, with epochs counted from 1, and right in a run resumed inside an epoch."""

    def init_train_tqdm(self) -> Any:
        if redraws(sys.stdout):
            return super().init_train_tqdm()
        return Bar(disable=self.is_disabled, file=sys.stdout, smoothing=0)

    def init_validation_tqdm(self) -> Any:
        if redraws(sys.stdout):
            return super().init_validation_tqdm()
        return Bar(desc="validation", disable=self.is_disabled, file=sys.stdout, leave=False)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, *arguments: Any) -> None:
        super().on_train_epoch_start(trainer, *arguments)
        self.train_progress_bar.set_description(f"epoch {trainer.current_epoch + 1}")

    @property
    def total_train_batches(self) -> int:
        """The batches of the epoch, up to the run's last step.

        RunFolder ends a run with `max_steps`, not Lightning, so that Lightning's own total is that
        of the whole epoch.
        """
        module = self.trainer.lightning_module
        assert isinstance(module, InstructionTuner)
        batches = int(self.trainer.num_training_batches)
        steps = -(-batches // module.accumulate)
        left = module.total_steps - self.trainer.current_epoch * steps
        return min(batches, left * module.accumulate)

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        assert isinstance(pl_module, InstructionTuner)
        found = pl_module.shown
        return {name: format(found[name], form) for name, form in SHOWN.items() if name in found}
