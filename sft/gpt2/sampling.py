"""The choice of the next token: the likeliest, or one drawn with temperature, top-k and top-p."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sft.config.rules import too_cold


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Args:
        temperature: 0 takes the likeliest token. Else one is drawn, and logits are divided by it.
        top_k: draw among this many likeliest tokens.
        top_p: draw, of these, among the fewest whose probabilities sum to at least `top_p`
            (nucleus sampling: Holtzman et al., 2019).

    Raises:
        ValueError: a value is out of its range; the message names it.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature: expected a number from 0 up, found {self.temperature}")
        if problem := too_cold(self.temperature):
            raise ValueError(f"temperature: {problem}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k: expected a number from 1 up, found {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: expected a number above 0 and up to 1, found {self.top_p}")

    def choose(self, logits: Tensor, generators: Sequence[torch.Generator]) -> list[int]:
        """Draw one token for each row of logits (rows, V), from that row's generator.

        The temperature must be above 0.
        """
        # Drawn on the CPU, so that a seed gives the same numbers on every device.
        logits = logits.float().cpu() / self.temperature

        if self.top_k is not None and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k).values[:, -1:]  # (rows, 1)
            logits = logits.masked_fill(logits < least, -torch.inf)
        chances = F.softmax(logits, dim=-1)

        # A token is left out if those before it already sum to top_p. The likeliest one always
        # stays, also for a top_p that is 0 in fp32.
        if self.top_p is not None:
            ordered, order = chances.sort(descending=True, stable=True)
            beyond = ordered.cumsum(-1) - ordered >= self.top_p
            beyond[:, 0] = False
            chances = ordered.masked_fill(beyond, 0).gather(-1, order.argsort())

        tokens = []
        for row, generator in zip(chances, generators, strict=True):
            tokens.append(int(torch.multinomial(row, 1, generator=generator)))
        return tokens
