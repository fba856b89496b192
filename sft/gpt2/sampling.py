"""The choice of the next token."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sft.config.rules import too_cold


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: `temperature` 0 takes the likeliest, else one is drawn among the `top_k` likeliest,
    and of these among the fewest that share at least `top_p` of the chances (Holtzman et al., 2019).

    Raises:
        ValueError: a value out of its range, by name.
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
        """One token for each row of logits (rows, V), drawn from that row's generator; not for temperature 0, which
        draws nothing."""
        logits = logits.float().cpu() / self.temperature  # drawn on the CPU: the same numbers on every device
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k).values[:, -1:]  # (rows, 1)
            logits = logits.masked_fill(logits < least, -torch.inf)
        chances = F.softmax(logits, dim=-1)
        if self.top_p is not None:
            ordered, order = chances.sort(descending=True, stable=True)
            enough = ordered.cumsum(-1) - ordered >= self.top_p  # those before a token share as much already
            enough[:, 0] = False  # also of a top_p that is 0 in fp32
            chances = ordered.masked_fill(enough, 0).gather(-1, order.argsort())
        drawn = zip(chances, generators, strict=True)
        return [int(torch.multinomial(row, 1, generator=generator)) for row, generator in drawn]
