"""Needs of a run on Apple's GPUs (MPS) that other devices do not have."""

import torch
from lightning.pytorch import Trainer

from sft.data.batches import Batch
from sft.data.datamodule import InstructionData
from sft.training.callback import RunCallback
from sft.training.module import InstructionTuner


class EmptyCache(RunCallback):
    """Gives cached memory back now and then.

    On MPS the cache grows with the number of different shapes (pytorch#132596).

    Args:
        every: optimizer steps from one time to the next; each costs a wait for the GPU.
    """

    def __init__(self, every: int = 50) -> None:
        self.every = every

    def after_step(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData, batch: Batch
    ) -> None:
        if trainer.global_step % self.every == 0:
            torch.mps.empty_cache()
