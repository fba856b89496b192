"""AdamW and the learning rate's course."""

import math

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from sft.config import OptimConfig


def adamw(model: nn.Module, config: OptimConfig, fused: bool = True) -> AdamW:
    """AdamW (Loshchilov and Hutter, 2019) that decays matrices, and neither biases nor LayerNorms; what is frozen is
    not its concern."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (config.betas[0], config.betas[1])
    return AdamW(groups, lr=config.lr, betas=betas, fused=fused)


def schedule(optimizer: torch.optim.Optimizer, config: OptimConfig, total_steps: int) -> LambdaLR:
    """A linear warm-up, then a constant rate or half a cosine that reaches 0 after the last step."""

    def factor(done: int) -> float:  # optimizer steps taken before this one
        if done < config.warmup_steps:
            return (done + 1) / config.warmup_steps
        if config.schedule == "constant":
            return 1.0
        progress = (done - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)
