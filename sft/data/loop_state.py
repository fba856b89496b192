"""The position of Lightning's fit loop.

Lightning documents none of these counters, and a release may rename them. So they are read here
and nowhere else; `data/` and `training/` call these functions.
"""

from lightning.pytorch import LightningDataModule, Trainer


def place_in_plan(trainer: Trainer) -> tuple[int, int]:
    """The epoch that the next loader is for, and how many of its micro-batches are already done."""
    loop = trainer.fit_loop
    epoch: int = loop.epoch_progress.current.processed  # type: ignore[attr-defined]

    # At an ordinary epoch's start the counter still holds the epoch before. It is a place in this
    # epoch only when the loop restarts from a checkpoint.
    done = loop.epoch_loop.batch_progress.current.ready if loop.restarting else 0
    return epoch, done


def at_epoch_end(trainer: Trainer) -> bool:
    """Whether the current micro-batch is the last of its epoch."""
    return trainer.fit_loop.epoch_loop.batch_progress.is_last_batch


def took_step(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the optimizer took a step at this micro-batch."""
    done = batch_idx + 1
    return done % trainer.accumulate_grad_batches == 0 or done == trainer.num_training_batches


def epochs_done(trainer: Trainer) -> float:
    """The epochs trained so far, counted in optimizer steps."""
    steps_per_epoch = -(-trainer.num_training_batches // trainer.accumulate_grad_batches)
    return round(trainer.global_step / steps_per_epoch, 4)


def datamodule_of(trainer: Trainer) -> LightningDataModule | None:
    """The data that `fit` was called with. Lightning sets this attribute without declaring it."""
    data: LightningDataModule | None = trainer.datamodule  # type: ignore[attr-defined]
    return data


def resumed_from_checkpoint(trainer: Trainer) -> bool:
    """Whether this fit goes on from a checkpoint."""
    return trainer.ckpt_path is not None
