"""`profile=true`: where the time of a few steps goes."""

import logging
import os
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from torch.profiler import (
    profile,
    tensorboard_trace_handler,
)

from sft.atomic import write_text
from sft.data.batches import Batch
from sft.data.datamodule import InstructionData
from sft.training.callback import RunCallback
from sft.training.module import InstructionTuner

log = logging.getLogger("sft")

# Kineto would print a line of its own at the start and at the end of a trace.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

# The first steps of a process make buffers and choose kernels, so they are left out.
SKIPPED = 2
TRACED = 3
LONGEST = 10


class Profile(RunCallback):
    """Traces TRACED steps of rank 0 with torch.profiler.

    It writes `*.pt.trace.json`, which Chrome (chrome://tracing), Perfetto and TensorBoard's plugin
    torch-tb-profiler open, and `operations.txt`, a table of the operations that took most time.

    Args:
        folder: for the two files; it is made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps = 0
        self.profiler: profile | None = None

    def at_batch_start(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData
    ) -> None:
        if trainer.is_global_zero and self.steps == SKIPPED and self.profiler is None:
            write_trace = tensorboard_trace_handler(str(self.folder), "rank0")
            self.profiler = profile(on_trace_ready=write_trace, acc_events=True)
            self.profiler.start()

    def after_step(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData, batch: Batch
    ) -> None:
        self.steps += 1
        if self.steps == SKIPPED + TRACED:
            self._write()

    def at_train_end(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData
    ) -> None:
        # The run may have fewer steps.
        if trainer.is_global_zero and self.steps <= SKIPPED:
            log.warning(
                f"profile: nothing was traced, since the first {SKIPPED} steps are left out"
            )
        if SKIPPED < self.steps < SKIPPED + TRACED:
            self._write()

    def _write(self) -> None:
        if self.profiler is None:
            return
        self.profiler.stop()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        operations = self.profiler.key_averages().table(
            sort_by=f"self_{device}_time_total", row_limit=LONGEST, max_name_column_width=40
        )
        write_text(self.folder / "operations.txt", operations)
        log.info(f"profile: {self.folder}")
