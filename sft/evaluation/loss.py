"""The loss over a split, as training measures it."""

import math

import torch

from sft.config import InputError
from sft.data.dataset import Examples
from sft.gpt2.device import Precision
from sft.gpt2.model import GPT

DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@torch.no_grad()
def mean_loss(model: GPT, examples: Examples, batch_size: int, precision: Precision, mask_prompt: bool) -> float:
    """Sum of the cross entropies of all labels, divided by their number, in nats; NaN if there are none.

    The weights are fp32 and lower precisions are autocast, as in training, so that the numbers can be compared with
    those that training reports.
    """
    device = model.wte.weight.device
    total, count = 0.0, 0
    for start in range(0, len(examples), batch_size):
        rows = range(start, min(start + batch_size, len(examples)))
        batch = examples.batch(rows, mask_prompt, multiple=64 if device.type == "mps" else 1)
        with torch.autocast(device.type, DTYPES[precision], enabled=precision != "32-true"):
            losses = model.token_losses(batch.input_ids.to(device), batch.labels.to(device), batch.lengths.to(device))
        total, count = total + float(losses.sum()), count + len(losses)
    if count and not math.isfinite(total):
        raise InputError(
            f"precision: with {precision} the loss is {total}; use precision=32, or the weights hold what is no number"
        )
    return total / count if count else math.nan
