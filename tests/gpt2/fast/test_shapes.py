"""Tokens that fill a shape up change nothing that the caller keeps."""

import pytest
import torch

from sft.gpt2.fast import fill_to_multiple
from sft.gpt2.model import GPT, GPTConfig


@pytest.mark.parametrize(
    ("tokens", "other_tokens", "length"),
    [(0, 0, 0), (2, 0, 32), (32, 0, 32), (33, 0, 64), (2, 29, 3), (2, 30, 2), (2, 31, 33)],
)
def test_an_index_is_filled_with_zeros_up_to_a_multiple_of_32(tokens, other_tokens, length):
    index = torch.arange(5, 5 + tokens)
    filled = fill_to_multiple(index, other_tokens)
    assert filled.tolist() == index.tolist() + [0] * (length - tokens)


def test_losses_and_gradients_are_the_same_without_filling(change_limits):
    torch.manual_seed(0)
    model = GPT(GPTConfig(n_layer=2, n_head=2, n_embd=16, vocab_size=50, n_positions=12))
    ids = torch.randint(50, (3, 12))
    lengths = torch.tensor([12, 5, 9])
    labels = ids.where(torch.arange(12) < lengths[:, None], -100)
    labels[0, 0] = -100  # the token that fills
    results = []
    for token_multiple in (1, 32):
        change_limits(token_multiple=token_multiple)
        model.zero_grad()
        losses = model.token_losses(ids, labels, lengths)
        losses.sum().backward()
        results.append([losses.detach(), *(parameter.grad for parameter in model.parameters())])
    assert len(results[0][0]) == 11 + 5 + 9
    for plain, filled in zip(*results, strict=True):
        torch.testing.assert_close(filled, plain, atol=1e-5, rtol=1e-5)
