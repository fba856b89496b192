"""Tiny models, and batches for them."""

import torch

from sft.data.batches import Batch
from sft.gpt2.model import GPTConfig

TINY = GPTConfig(n_layer=3, n_head=4, n_embd=64, vocab_size=500, n_positions=320)
WIDE = GPTConfig(n_layer=2, n_head=2, n_embd=128, vocab_size=900, n_positions=320, n_inner=256)


def make_batch(rows: int, length: int, masked: bool = False) -> Batch:
    """Of rows that are ever shorter, whose first half may be a prompt that is not learned."""
    lengths = torch.tensor([length - 9 * row for row in range(rows)])
    ids = torch.arange(rows * length).view(rows, length) % 400
    places = torch.arange(length)
    learned = (places < lengths[:, None]) & (places >= (length // 2 if masked else 0))
    return Batch(ids, ids.where(learned, -100), lengths, torch.arange(rows), 1, 1)
