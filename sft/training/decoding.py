"""Decoding in the middle of a training run."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from lightning.pytorch import Trainer


@contextmanager
def decoding(trainer: Trainer, compiled: bool) -> Iterator[None]:
    """Decode in the precision of the run.

    Args:
        compiled: the layers are compiled for training. Decoding then runs them uncompiled, since
            each layer's cache would have it compiled again.
    """
    eager = torch.compiler.set_stance("force_eager") if compiled else nullcontext()
    with trainer.precision_plugin.val_step_context(), eager:
        # Lightning has autocast convert a weight at each product. While decoding, a weight is
        # multiplied for every token, so its conversion is kept until the end of this context.
        device = trainer.strategy.root_device.type
        enabled = torch.is_autocast_enabled(device)
        with torch.autocast(device, enabled=enabled, cache_enabled=True):
            yield
