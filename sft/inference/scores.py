"""The log-probability that a model gives to each token of a text."""

from collections.abc import Sequence

import torch

from sft.gpt2.generate import TokenLogprobs, logprobs_of
from sft.gpt2.model import GPT

# The number of rows of logits that are in memory at one time.
ROWS = 64


@torch.no_grad()
def prompt_logprobs(model: GPT, tokens: Sequence[int], count: int) -> list[TokenLogprobs | None]:
    """Return the log-probability of each token after those before it; None for the first.

    Args:
        tokens: at least one, and no more than the model's context.
        count: how many of the likeliest tokens are returned too, at each place.
    """
    ids = torch.tensor([list(tokens)], device=model.wte.weight.device)
    x = model.features(ids)  # (T, C)
    found: list[TokenLogprobs | None] = [None]
    last = len(tokens) - 1
    for start in range(0, last, ROWS):
        end = min(start + ROWS, last)
        logits = model.head(x[start:end])  # (n, V)
        for row, token in zip(logits, tokens[start + 1 : end + 1], strict=True):
            found.append(logprobs_of(row, token, count))
    return found
