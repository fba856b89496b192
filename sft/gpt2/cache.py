"""The keys and values of what was read, so that a new token attends to the old ones without reading them again."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sft.gpt2.padding import Padding, attend_plainly


class Cache:
    """Keys and values of what each slot has read, (layers, slots, 2, nh, S, hs); allocated at the first write."""

    def __init__(self, layers: int, slots: int, size: int) -> None:
        self.layers, self.slots, self.size = layers, slots, size
        self.kept = torch.empty(0)

    def prefill(self, qkv: Tensor, layer: int, slot: int, padding: Padding) -> Tensor:
        """Attend within whole prompts, (N, 3, nh, hs), and keep their keys and values from `slot` on."""
        if self.kept.numel() == 0:
            _, _, nh, hs = qkv.shape
            self.kept = qkv.new_zeros(self.layers, self.slots, 2, nh, self.size, hs)
        q, k, v = padding.split(qkv)  # (B, nh, T, hs)
        self.kept[layer, slot : slot + padding.B, :, :, : padding.T] = torch.stack([k, v], 1)
        return padding.attend_split(q, k, v)

    def extend(self, qkv: Tensor, layer: int, slots: Tensor, positions: Tensor, bias: Tensor) -> Tensor:
        """Attend from one new token in each of the first n slots, (n, 3, nh, hs), to all that its slot holds.

        Args:
            slots: (n,), 0 to n - 1.
            positions: (n,), at which the new tokens are kept.
            bias: (n, 1, 1, S), -inf at what a slot does not hold, else 0.
        """
        n, seen = len(bias), bias.shape[-1]
        self.kept[layer, slots, :, :, positions] = qkv[:, 1:]
        q = qkv[:, 0].unsqueeze(2).contiguous()  # (n, nh, 1, hs), as the fused attention wants it
        keys, values = self.kept[layer, :n, :, :, :seen].unbind(1)
        bias = bias.to(q.dtype)
        if q.device.type == "mps":  # see pytorch#167515
            return attend_plainly(q, keys, values, bias.expand(-1, q.shape[1], -1, -1).flatten(0, 1)).squeeze(2)
        return F.scaled_dot_product_attention(q, keys, values, bias).squeeze(2)

    def move(self, source: int, target: int, length: int) -> None:
        """Have a slot hold what another one does, of which `length` tokens were read."""
        if source != target:
            self.kept[:, target, :, :, :length] = self.kept[:, source, :, :, :length]
