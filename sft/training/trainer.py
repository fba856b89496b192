"""Lightning's Trainer, as every run wants it."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import Strategy

from sft.config import InputError, TrainConfig
from sft.gpt2.device import Precision
from sft.training.checkpoints import CheckpointFiles
from sft.training.memory import advice, too_large
from sft.training.module import InstructionTuner
from sft.training.sharding import Sharded


def make_trainer(
    config: TrainConfig,
    processes: int,
    device: str,
    precision: Precision,
    callbacks: list[Callback],
    logger: Logger | Literal[False],
    stop_at: int = -1,
) -> Trainer:
    """Lightning's trainer, without what the callbacks do better.

    Args:
        processes: of the run, on all machines.
        stop_at: do not train on from this step, -1: no limit. Otherwise the callbacks end the run, since Lightning
            would leave out the last validation.
    """
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")  # advice on workers and resuming that does not apply here
    return Trainer(
        accelerator=device,
        devices=config.devices,
        num_nodes=processes // config.devices,
        strategy=_strategy(config, processes),
        precision=precision,
        max_epochs=config.epochs,
        max_steps=stop_at,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.optim.grad_clip,
        logger=logger,
        callbacks=callbacks,
        plugins=[CheckpointFiles()],
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        inference_mode=config.strategy != "fsdp",  # shards first put together in it could not be trained
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_model_summary=False,
    )


def _strategy(config: TrainConfig, processes: int) -> str | Strategy:
    """find_unused_parameters is on although every parameter is used: else DDP regroups its buckets after the first
    step, also after the first one of a resumed run. With more than two ranks the sums would then be taken in another
    order, and a resumed run would not be bit-identical."""
    if config.strategy == "fsdp":
        return Sharded()
    return "ddp_find_unused_parameters_true" if processes > 1 else config.strategy


@contextmanager
def memory_needed(module: InstructionTuner) -> Iterator[None]:
    """Around training: a GPU without enough memory becomes an InputError that says what can be done."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
        if module.batch_shape is None:
            raise InputError(
                f"model: the GPU's memory did not last to the first batch ({reason}); take a smaller model, a smaller "
                "batch_size, or a larger GPU"
            ) from error
        remedy = f" ({reason}); {advice(module.trainer, module)}"
        raise InputError(too_large(module.batch_shape, remedy)) from error
