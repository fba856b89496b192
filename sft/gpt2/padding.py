"""Rows of different lengths, as a padded batch (B, T) and as a stream of their real tokens (N,).

Shapes: B rows, T positions, N tokens in the stream, nh heads of hs channels.
"""

import torch
from torch import Tensor

from sft.gpt2 import fast


class Padding:
    """Positions of the real tokens in a right-padded (B, T) batch, and the way there and back.

    The stream holds the real tokens of all rows, row after row. `count` is their number; N may be
    a little larger, as `fast.fill_to_multiple` appends tokens whose results are dropped.

    Args:
        lengths: (B,) number of real tokens in each row; None: no padding.
        other_tokens: tokens of other rows that will share the stream.
    """

    def __init__(self, input_ids: Tensor, lengths: Tensor | None, other_tokens: int = 0) -> None:
        self.B, self.T = input_ids.shape
        self._lengths = lengths
        self._columns = torch.arange(self.T, device=input_ids.device)  # (T,)

        # Without lengths every token is real, and the stream is the batch, flattened.
        self.index: Tensor | None = None
        self.count = input_ids.numel()
        if lengths is not None:
            real = self._columns < lengths.unsqueeze(1)  # (B, T)
            index = real.flatten().nonzero().squeeze(1)
            self.count = len(index)
            self.index = fast.fill_to_multiple(index, other_tokens)  # (N,)

        self.ids = self.unpad(input_ids)  # (N,)

    def positions(self) -> Tensor:
        """Return each token's position in its row, (N,)."""
        return self.unpad(self._columns.expand(self.B, -1))

    def sizes(self) -> Tensor:
        """Return the number of real tokens in each token's row, (N,)."""
        if self._lengths is None:
            return self._columns.new_full((self.count,), self.T)
        return self.unpad(self._lengths.unsqueeze(1).expand(-1, self.T))

    def unpad(self, x: Tensor) -> Tensor:
        """Return the stream of a batch, (B, T, ...) to (N, ...)."""
        flat = x.flatten(0, 1)
        return flat if self.index is None else flat[self.index]

    def pad(self, x: Tensor) -> Tensor:
        """Return the batch of a stream, (N, ...) to (B, T, ...), with zeros at the padding."""
        if self.index is not None:
            real = slice(self.count)
            zeros = x.new_zeros(self.B * self.T, *x.shape[1:])
            x = zeros.index_copy(0, self.index[real], x[real])
        return x.view(self.B, self.T, *x.shape[1:])

    def split_heads(self, qkv: Tensor) -> Tensor:
        """Return queries, keys and values by row and head, (N, 3, nh, hs) to (3, B, nh, T, hs)."""
        return self.pad(qkv).permute(2, 0, 3, 1, 4)

    def merge_heads(self, y: Tensor) -> Tensor:
        """Return the stream of attended values, (B, nh, T, hs) to (N, nh, hs)."""
        return self.unpad(y.transpose(1, 2))
