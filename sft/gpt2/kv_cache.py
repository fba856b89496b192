"""The KV cache: a new token attends to earlier ones without reading them again.

Shapes: n rows that are being answered, S positions that a slot can hold, nh heads of hs channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sft.gpt2.model import attention
from sft.gpt2.padding import Padding


class KVCache:
    """Keys and values that each slot has read, (layers, slots, 2, nh, S, hs).

    They are allocated at the first write, in the type that the model computes in.

    Args:
        slots: rows that can be decoded together.
        size: S.
    """

    def __init__(self, layers: int, slots: int, size: int) -> None:
        self.layers = layers
        self.slots = slots
        self.size = size
        self.kv = torch.empty(0)

    def prefill(self, qkv: Tensor, layer: int, slot: int, prompts: Padding) -> Tensor:
        """Attend within whole prompts, (N, 3, nh, hs), and store their keys and values.

        Args:
            slot: the first prompt's; the others follow it.
        """
        if self.kv.numel() == 0:
            _, _, nh, hs = qkv.shape
            self.kv = qkv.new_zeros(self.layers, self.slots, 2, nh, self.size, hs)

        q, k, v = prompts.split_heads(qkv)  # each (B, nh, T, hs)
        self.kv[layer, slot : slot + prompts.B, :, :, : prompts.T] = torch.stack([k, v], 1)
        return prompts.merge_heads(attention(q, k, v))

    def extend(
        self, qkv: Tensor, layer: int, slots: Tensor, positions: Tensor, mask: Tensor
    ) -> Tensor:
        """Attend from one new token in each of the first n slots, (n, 3, nh, hs), to its whole row.

        Args:
            slots: (n,), 0 to n - 1.
            positions: (n,), where the new tokens' keys and values are stored.
            mask: (n, 1, 1, S), 0 at positions that the row has, else -inf.
        """
        n = len(mask)
        length = mask.shape[-1]
        self.kv[layer, slots, :, :, positions] = qkv[:, 1:]

        q = qkv[:, 0].unsqueeze(2).contiguous()  # (n, nh, 1, hs), as fused attention wants it
        k, v = self.kv[layer, :n, :, :, :length].unbind(1)  # each (n, nh, S, hs)
        mask = mask.to(q.dtype)

        # On MPS, fused attention gives NaN with a 4-D mask (pytorch#167515).
        if q.device.type == "mps":
            nh = q.shape[1]
            row_mask = mask.expand(-1, nh, -1, -1).flatten(0, 1)  # (n * nh, 1, S)
            return attention(q, k, v, row_mask).squeeze(2)
        return F.scaled_dot_product_attention(q, k, v, mask).squeeze(2)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one slot into another."""
        if source != target:
            self.kv[:, target, :, :, :length] = self.kv[:, source, :, :, :length]
