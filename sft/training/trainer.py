"""Lightning's Trainer, as every run wants it."""

import logging
import warnings
from typing import Literal

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger

from sft.config import TrainConfig
from sft.gpt2.device import Precision
from sft.training.callbacks import SyncedCheckpointIO


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
        strategy="ddp" if processes > 1 else config.strategy,
        precision=precision,
        max_epochs=config.epochs,
        max_steps=stop_at,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.optim.grad_clip,
        logger=logger,
        callbacks=callbacks,
        plugins=[SyncedCheckpointIO()],
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
