"""The optimizer and the learning rate's schedule."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from sft.config.schema import OptimConfig


def adamw(model: nn.Module, config: OptimConfig, fused: bool = True) -> AdamW:
    """AdamW (Loshchilov and Hutter, 2019) over the trained parameters.

    Matrices decay. Biases and LayerNorms do not: a pull towards 0 has no meaning for them.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {
            "params": [parameter for parameter in trained if parameter.dim() >= 2],
            "weight_decay": config.weight_decay,
        },
        {
            "params": [parameter for parameter in trained if parameter.dim() < 2],
            "weight_decay": 0.0,
        },
    ]
    betas = (config.betas[0], config.betas[1])
    return AdamW(groups, lr=config.lr, betas=betas, fused=fused)


@dataclass(frozen=True)
class OptimizerEntry:
    """An optimizer: how it is made, and the bytes that it keeps for each trained parameter.

    Trained parameters are fp32. The memory estimate reads `state_bytes`, so a new optimizer is
    right there too.
    """

    make: Callable[[nn.Module, OptimConfig, bool], torch.optim.Optimizer]
    state_bytes: int


OPTIMIZERS = {
    # Two fp32 means: of the gradient and of its square.
    "adamw": OptimizerEntry(adamw, state_bytes=8),
}
# All runs use this one; the config has no key to choose another.
OPTIMIZER = OPTIMIZERS["adamw"]


def schedule(optimizer: torch.optim.Optimizer, config: OptimConfig, total_steps: int) -> LambdaLR:
    """A linear warm-up, then a constant rate or half a cosine that is 0 after the last step."""

    def factor(steps_done: int) -> float:
        if steps_done < config.warmup_steps:
            return (steps_done + 1) / config.warmup_steps
        if config.schedule == "constant":
            return 1.0
        steps_left = max(1, total_steps - config.warmup_steps)
        progress = (steps_done - config.warmup_steps) / steps_left
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)
