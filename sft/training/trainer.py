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

from sft.config.schema import TrainConfig
from sft.device import Precision
from sft.errors import InputError
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
    bar: bool = True,
) -> Trainer:
    """Build Lightning's trainer, with all that the run does better itself switched off.

    Args:
        processes: of the run, on all machines.
        stop_at: do not train on from this step; -1: no limit.
        bar: show a progress bar.
    """
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    # Its advice on workers and on resuming inside an epoch does not apply to a planned epoch.
    warnings.filterwarnings("ignore", module="lightning")

    return Trainer(
        accelerator=device,
        devices=config.devices,
        num_nodes=processes // config.devices,
        strategy=_strategy(config, processes),
        precision=precision,
        max_epochs=config.epochs,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.optim.grad_clip,
        logger=logger,
        callbacks=callbacks,
        plugins=[CheckpointFiles()],
        log_every_n_steps=1,
        enable_progress_bar=bar,
        # Each epoch has a plan of its own, so each has a loader of its own.
        reload_dataloaders_every_n_epochs=1,
        # Off: the step limit. Lightning would leave out the validation after the last step, so
        # RunFolder ends the run. The limit only keeps a run that is done from training on.
        max_steps=stop_at,
        # Off: the sampler for several ranks. The plan divides the records, each exactly once.
        use_distributed_sampler=False,
        # Off: the trial validation. SanityGate and row 0 of the metrics measure before step 1.
        num_sanity_val_steps=0,
        # Off: its checkpoints. They can fall inside an accumulation window; RunFolder saves.
        enable_checkpointing=False,
        # Off: the table of layers. The log says what is trained.
        enable_model_summary=False,
        # Off with shards: weights that are first gathered in inference mode cannot be trained.
        inference_mode=config.strategy != "fsdp",
    )


def _strategy(config: TrainConfig, processes: int) -> str | Strategy:
    """Return the strategy, by its name where Lightning has it.

    `find_unused_parameters` is on although every parameter is used. Without it, DDP regroups its
    buckets after the first step, and again after the first step of a resumed run. With more than
    two ranks that changes the order of the sums. A resumed run would then differ in the last bit.
    """
    if config.strategy == "fsdp":
        return Sharded()
    return "ddp_find_unused_parameters_true" if processes > 1 else config.strategy


@contextmanager
def explain_out_of_memory(module: InstructionTuner) -> Iterator[None]:
    """Turn a GPU's out-of-memory error into an InputError that says what can be done."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
        if module.batch_shape is None:
            raise InputError(
                f"model: the GPU ran out of memory before the first batch ({reason}); take a "
                "smaller model, a smaller batch_size, or a larger GPU"
            ) from error
        remedy = f" ({reason}); {advice(module)}"
        raise InputError(too_large(module.batch_shape, remedy)) from error
