"""The optimizer and the learning rate's schedule."""

import math

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from sft.config.schema import OptimConfig
from sft.training.narrow_adamw import NarrowAdamW


def adamw(model: nn.Module, config: OptimConfig, fused: bool = True) -> Optimizer:
    """AdamW (Loshchilov and Hutter, 2019) over the trained parameters.

    Matrices decay. Biases and LayerNorms do not: a pull towards 0 has no meaning for them.
    `optim.moments` chooses the implementation: torch's own, or `NarrowAdamW`, which takes less
    memory.

    Args:
        fused: torch's own takes its step in one kernel.
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
    if config.moments == "fp32":
        return AdamW(groups, lr=config.lr, betas=betas, fused=fused)
    return NarrowAdamW(groups, lr=config.lr, betas=betas, moments=config.moments)


# The share of a run in which `wsd` lowers the learning rate (Hägele et al., 2405.18392).
DECAY_SHARE = 0.2


def warmup_steps(config: OptimConfig, total_steps: int) -> int:
    """Return the steps in which the learning rate rises, given as a number or as a share."""
    if config.warmup is not None:
        return round(config.warmup * total_steps)
    return config.warmup_steps


def schedule(optimizer: Optimizer, config: OptimConfig, total_steps: int) -> LambdaLR:
    """A linear warm-up, then a constant rate, or a fall that ends at `min_lr` after the last step.

    The fall is half a cosine, a line, or, with `wsd`, a line in the last DECAY_SHARE of the steps
    (warm-up, stable, decay: Hu et al., 2404.06395).
    """
    warmup = warmup_steps(config, total_steps)
    floor = config.min_lr / config.lr
    after_warmup = max(1, total_steps - warmup)
    decay_steps = max(1, min(after_warmup, round(DECAY_SHARE * total_steps)))

    def factor(steps_done: int) -> float:
        if steps_done < warmup:
            return (steps_done + 1) / warmup
        if config.schedule == "constant":
            return 1.0

        # The share of the fall that is left: 1 at its start, and 0 after the last step.
        progress = min(1.0, (steps_done - warmup) / after_warmup)
        if config.schedule == "cosine":
            left = 0.5 * (1 + math.cos(math.pi * progress))
        elif config.schedule == "linear":
            left = 1 - progress
        else:
            left = min(1.0, max(0.0, (total_steps - steps_done) / decay_steps))
        return floor + (1 - floor) * left

    return LambdaLR(optimizer, factor)


def beta2_of(half_life: float, tokens_per_step: float) -> float:
    """Return the decay rate by which a gradient counts half after `half_life` tokens.

    Source: Marek et al., "Small Batch Size Training for Language Models" (2507.07101).
    """
    rate: float = 0.5 ** (tokens_per_step / half_life)
    return rate
