"""Few different shapes: equal to the plain `wanted.nonzero()`, with extra indices appended.

A matrix product of a new shape is prepared first, which on a CPU can take longer than the product.
Batches differ in their number of tokens, so nearly every one would bring a new shape.
"""

import torch.nn.functional as F
from torch import Tensor

from sft.gpt2.fast.limits import LIMITS


def fill_to_multiple(index: Tensor, other_tokens: int = 0) -> Tensor:
    """Return an index, (n,), with zeros appended up to the device's multiple of tokens.

    Zero is a valid index, so the zeros select something; the caller drops what is computed for it.

    Args:
        other_tokens: tokens that share a product with these, and count towards the multiple.
    """
    fill = -(len(index) + other_tokens) % LIMITS[index.device.type].token_multiple
    return F.pad(index, (0, fill))
