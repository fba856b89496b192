"""A matrix that will not be trained again, in a form that multiplies faster.

`Packed` equals `F.linear(x, weight, bias)`. `Int8` is close to it, in half of bf16's memory.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sft.gpt2.fast.limits import LIMITS


class Frozen(Protocol):
    """A matrix W, (out, in), in any form.

    Attributes:
        nbytes: the bytes that a product reads of it.
    """

    nbytes: int

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:  # (N, in) -> (N, out)
        """Return x W^T + b."""


class Packed:
    """A bf16 matrix that is arranged once as oneDNN's products want it.

    `F.linear` arranges it again for each product. A step that decodes one row with the shape of
    GPT-2 124M took 34 ms of one thread instead of 46, and instead of 73 with `linear_of_few`.
    """

    def __init__(self, weight: Tensor) -> None:
        self._matrix = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        self.nbytes = weight.nbytes

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._matrix, bias, "none", [], "")
        return product


class Int8:
    """A matrix of whole numbers from -127 to 127, with a scale for each row.

    Decoding one row reads every matrix for one token, so half of the bytes take less time: 29 ms in
    the case above.
    """

    def __init__(self, weight: Tensor) -> None:
        weight = weight.detach()
        largest = weight.abs().amax(1).float()  # (out,)

        # Numbers are computed with the scales that are stored, which may be in bf16. A row of zeros
        # has any scale.
        self.scales = (largest / 127).clamp_min(1e-12).to(weight.dtype)
        whole = (weight.float() / self.scales.float().unsqueeze(1)).round_()
        self.numbers = whole.clamp_(-127, 127).to(torch.int8)
        self.nbytes = self.numbers.nbytes + self.scales.nbytes

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        # torch's kernel reads the numbers as they are. For many tokens it takes longer than a
        # product in the type of x, in which each of the numbers is exact. Where a row is no
        # multiple of 16 numbers, the kernel reads beyond its end, and the process dies.
        few = len(x) <= LIMITS[x.device.type].int8_tokens
        if few and x.shape[1] % 32 == 0:
            y = torch._weight_int8pack_mm(x.contiguous(), self.numbers, self.scales)
        else:
            y = F.linear(x, self.numbers.to(x.dtype)) * self.scales
        return y if bias is None else y + bias


def can_pack(weight: Tensor) -> bool:
    """Return whether `Packed` applies: in bf16, on a CPU for which oneDNN has products in bf16."""
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16:
        return False
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has_onednn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
