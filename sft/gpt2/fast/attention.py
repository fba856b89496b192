"""The choice of attention: the formula in `model.attention`, or torch's fused one, equal to it."""

from torch import Tensor

from sft.gpt2.fast.limits import LIMITS


def fused_attention_pays(q: Tensor) -> bool:
    """Return whether torch's fused attention is faster for rows of this length, (B, nh, T, hs).

    It needs no memory for the (T, T) scores. On a CPU, starting it costs more for short rows.
    """
    return q.shape[2] > LIMITS[q.device.type].plain_attention
