"""A product of few tokens: equal to `F.linear(x, weight, bias)`.

On a CPU, in bf16, W^T is rearranged for the processor's matrix unit before it is multiplied. For
few tokens that takes longer than the product. (W x^T)^T is the same, and rearranges x instead.
"""

import torch
from torch import Tensor

from sft.gpt2.fast.limits import LIMITS


def few_tokens(x: Tensor) -> bool:
    """Return whether x, (N, in), is better multiplied by `linear_of_few`.

    That is so while decoding with bf16 weights. Training, and decoding under autocast, take
    `F.linear`.
    """
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    return x.dtype == torch.bfloat16 and len(x) <= LIMITS[x.device.type].few_tokens


def linear_of_few(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x W^T + b, (N, in) to (N, out), as (W x^T + b)^T."""
    # A single token is a vector, and W x reads the matrix once, in its order.
    if len(x) == 1:
        y = torch.mv(weight, x[0]) if bias is None else torch.addmv(bias, weight, x[0])
        return y.unsqueeze(0)

    column = None if bias is None else bias.unsqueeze(1)  # (out, 1)
    y = torch.mm(weight, x.t()) if column is None else torch.addmm(column, weight, x.t())
    return y.t()
