"""Rows of different lengths: as a padded batch, and as a stream of real tokens, with attention between the two.

Shapes: B rows, T positions, N tokens in the stream, nh heads of hs channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

MULTIPLE = 32  # of tokens: see `indices_of`
PLAIN = 256  # tokens up to which, on a CPU, torch's own attention takes longer than its formula


def indices_of(wanted: Tensor, beside: int = 0) -> tuple[Tensor, int]:
    """The indices at which `wanted`, (n,), is true, and how many there are.

    On a CPU, zeros follow them until their number, with `beside`, is a multiple of 32: a matrix product of a new shape
    is prepared first, which can take longer than the product. The caller drops what is computed for these.
    """
    found = wanted.nonzero().squeeze(1)
    fill = -(len(found) + beside) % MULTIPLE if wanted.device.type == "cpu" else 0
    return F.pad(found, (0, fill)), len(found)


class Padding:
    """Where the real tokens lie in a right-padded (B, T) batch, and the way there and back. N is their number, and of
    what `indices_of` adds to them.

    Args:
        beside: how many other tokens will stand in the same stream.
    """

    def __init__(self, input_ids: Tensor, lengths: Tensor | None, beside: int = 0) -> None:
        self.B, self.T = input_ids.shape
        self.positions = torch.arange(self.T, device=input_ids.device)  # (T,)
        self.index, self.count = None, input_ids.numel()  # (N,), and how many real tokens there are
        if lengths is not None:
            real = self.positions < lengths.unsqueeze(1)  # (B, T)
            self.index, self.count = indices_of(real.flatten(), beside)
        self.ids = self.remove(input_ids)  # (N,)

    def places(self) -> Tensor:  # (N,), each token's position in its row
        return self.remove(self.positions.expand(self.B, -1))

    def remove(self, x: Tensor) -> Tensor:  # (B, T, ...) -> (N, ...)
        flat = x.flatten(0, 1)
        return flat if self.index is None else flat[self.index]

    def restore(self, x: Tensor) -> Tensor:  # (N, ...) -> (B, T, ...), zeros at the padding
        if self.index is not None:
            real = slice(self.count)
            x = x.new_zeros(self.B * self.T, *x.shape[1:]).index_copy(0, self.index[real], x[real])
        return x.view(self.B, self.T, *x.shape[1:])

    def split(self, qkv: Tensor) -> Tensor:  # (N, 3, nh, hs) -> (3, B, nh, T, hs)
        return self.restore(qkv).permute(2, 0, 3, 1, 4)

    def attend(self, qkv: Tensor, dropout: float = 0.0) -> Tensor:
        """Causal self-attention within each row; padding on the right is out of every real token's sight."""
        q, k, v = self.split(qkv)
        return self.attend_split(q, k, v, dropout)

    def attend_split(self, q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:  # 3 x (B, nh, T, hs)
        if q.device.type == "cpu" and self.T <= PLAIN:
            unseen = q.new_full((self.T, self.T), -torch.inf).triu(1)
            y = attend_plainly(q, k, v, unseen, dropout)
        else:
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return self.remove(y.transpose(1, 2))  # (N, nh, hs)


def attend_plainly(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, dropout: float = 0.0) -> Tensor:
    """Attention as its paper has it (3.2.1): softmax(q k^T / sqrt(hs) + bias) v.

    Args:
        q: (B, nh, T, hs)
        k, v: (B, nh, S, hs)
        bias: -inf where a position must not be seen, else 0; (T, S), or of each row and head, (B * nh, T, S).
    """
    queries, keys, values = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
    scores = torch.baddbmm(bias, queries, keys.transpose(1, 2), alpha=q.shape[-1] ** -0.5)  # (B * nh, T, S)
    return (F.dropout(scores.softmax(-1), dropout) @ values).view_as(q)
