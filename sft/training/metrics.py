"""What is measured while a run goes on, and where it is written: `metrics.csv`, TensorBoard, the progress bar."""

import csv
import io
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from sft.config import EvalConfig
from sft.data.datamodule import InstructionData
from sft.files import read_numbers, write_text, writing
from sft.training.module import InstructionTuner

log = logging.getLogger(__name__)
COLUMNS = (
    "step",
    "epoch",
    "tokens_seen",
    "train/loss",
    "lr",
    "tokens_per_sec",
    "train/eval_loss",
    "val/loss",
    "val/full_loss",
)
Row = dict[str, float]


@dataclass
class MetricsFile:
    """`metrics.csv`: one row per optimizer step, row 0 for what is measured before the first."""

    path: Path
    rows: list[Row] = field(default_factory=list)

    def resume(self, step: int) -> None:
        """Go on after `step`: later rows, of steps that are done anew, are cut; 0: begin."""
        before = read_numbers(self.path) if step and self.path.exists() else []
        self.rows = [row for row in before if row["step"] <= step]
        write_text(self.path, _csv([dict(zip(COLUMNS, COLUMNS, strict=True)), *self.rows]))

    def has(self, step: float) -> bool:
        return bool(self.rows) and self.rows[-1]["step"] == step

    def append(self, row: Row) -> None:
        with writing(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
            file.write(_csv([row]))
        self.rows.append(row)


def _csv(rows: Sequence[Mapping[str, float | str]]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, COLUMNS, lineterminator="\n").writerows(rows)
    return text.getvalue()


class Metrics(Callback):
    """Takes the losses as `eval` says and writes a row for every optimizer step.

    A row is complete when the step's looks at the losses have been taken; a step with a pass over the validation split
    behind it waits for that. So a row is written before the checkpoint of its step. One whose looks a signal cut off
    stays in the checkpoint, and they are taken anew when the run goes on.
    """

    def __init__(self, config: EvalConfig, file: MetricsFile) -> None:
        self.config, self.file = config, file
        self.row: Row = {}  # of the step last taken
        self.owed: list[str] = []  # what was cut off of its looks: "look", "validation"
        self.tokens_seen = 0
        self.seconds = 0.0  # spent in optimizer steps, without the looks at the losses
        self._started = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"tokens_seen": self.tokens_seen, "seconds": self.seconds, "row": self.row, "owed": self.owed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.tokens_seen, self.seconds = state["tokens_seen"], state["seconds"]
        self.row, self.owed = state["row"], state["owed"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.owed and trainer.max_steps == self.row["step"]:  # there is no step left: training will not start
            self._catch_up(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.owed:
            self._catch_up(trainer, pl_module)
        if trainer.global_step or not self.config.every:
            return
        self.row = {"step": 0, "epoch": 0, "tokens_seen": 0}
        self._look(trainer, pl_module)
        self._finish_row(trainer)

    def _catch_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, InstructionTuner)
        data = data_of(trainer)
        owed, self.owed = self.owed, []
        log.info(f"first the looks at the losses after step {self.row['step']:g}, which a signal had cut off")
        if "look" in owed:
            self._look(trainer, pl_module)
        if "validation" in owed:
            pl_module.validate(data.val_dataloader())
            self.on_validation_end(trainer, pl_module)
        self._finish_row(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._started == 0:
            self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not stepped(trainer, batch_idx):
            return
        assert isinstance(pl_module, InstructionTuner)
        step = trainer.global_step
        seconds, self._started = time.perf_counter() - self._started, 0.0
        self.seconds += seconds
        self.tokens_seen += batch.step_tokens
        self.row = {
            "step": step,
            "epoch": epochs_done(trainer),
            "tokens_seen": self.tokens_seen,
            "train/loss": pl_module.step_loss,
            "lr": pl_module.step_lr,
            "tokens_per_sec": round(batch.step_tokens / seconds, 1),
        }
        shown = {"loss": self.row["train/loss"], "lr": self.row["lr"], "tok/s": self.row["tokens_per_sec"]}
        pl_module.log_dict(shown, prog_bar=True, logger=False)
        if self.config.every and (step % self.config.every == 0 or step == pl_module.total_steps):
            self._look(trainer, pl_module)
        if not (
            has_validation(trainer) and (batch_idx + 1 == trainer.num_training_batches or step == pl_module.total_steps)
        ):
            self._finish_row(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, InstructionTuner)
        self._add(pl_module, "validation", {"val/full_loss": pl_module.validation_loss})
        self._finish_row(trainer)

    def _look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, InstructionTuner)
        data = data_of(trainer)
        look = {"train/eval_loss": pl_module.mean_loss(data.first_batches("train", self.config.batches))}
        if data.has_validation:
            look["val/loss"] = pl_module.mean_loss(data.first_batches("validation", self.config.batches))
        self._add(pl_module, "look", look)

    def _add(self, pl_module: InstructionTuner, name: str, losses: Row) -> None:
        if pl_module.cut:
            self.owed.append(name)
        else:
            self.row |= losses

    def _finish_row(self, trainer: Trainer) -> None:
        if not self.row or self.owed:
            return
        if trainer.is_global_zero and not self.file.has(self.row["step"]):  # of a run killed after it had caught up
            self.file.append(self.row)
            for logger in trainer.loggers:
                logger.log_metrics(scalars(self.row), int(self.row["step"]))
        self.row = {}


def scalars(row: Row) -> dict[str, Any]:
    """What a tracker is given of a row, beside its step."""
    return {key: value for key, value in row.items() if key != "step"}


def epochs_done(trainer: Trainer) -> float:
    steps_per_epoch = -(-trainer.num_training_batches // trainer.accumulate_grad_batches)
    return round(trainer.global_step / steps_per_epoch, 4)


def has_validation(trainer: Trainer) -> bool:
    return data_of(trainer).has_validation


def data_of(trainer: Trainer) -> InstructionData:
    data = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it, and does not declare it
    assert isinstance(data, InstructionData)
    return data


def stepped(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the optimizer took a step at this micro-batch."""
    done = batch_idx + 1
    return done % trainer.accumulate_grad_batches == 0 or done == trainer.num_training_batches


class Progress(TQDMProgressBar):
    """Lightning's bar, with epochs counted from 1, and right also where a run is resumed inside an epoch."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, *arguments: Any) -> None:
        super().on_train_epoch_start(trainer, *arguments)
        self.train_progress_bar.set_description(f"epoch {trainer.current_epoch + 1}")

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        shown = {"loss": ".3f", "lr": ".1e", "tok/s": ",.0f"}
        found = super().get_metrics(trainer, pl_module)
        return {name: format(found[name], form) for name, form in shown.items() if name in found}
