"""The choice of the next token: the likeliest, or one that is drawn, with penalties on repetition.

The order is that of transformers: repetition penalty, n-grams, temperature, top-k, top-p, min-p.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from sft.config.rules import too_cold


@dataclass(frozen=True)
class Sampling:
    """Settings of one answer: how its next token is chosen, and what is reported of the choice.

    Args:
        temperature: 0 takes the likeliest token. Else one is drawn, and logits are divided by it.
        top_k: draw among this many likeliest tokens.
        top_p: draw, of these, among the fewest whose probabilities sum to at least `top_p`
            (nucleus sampling: Holtzman et al., 2019).
        min_p: draw, of these, among those with at least `min_p` times the probability of the
            likeliest (Nguyen et al., 2407.01082).
        repetition_penalty: divides the logits of tokens that prompt or answer hold already, and
            multiplies those below 0; 1 changes nothing (CTRL: Keskar et al., 1909.05858).
        no_repeat_ngram: no sequence of this many tokens comes twice in prompt and answer
            (Paulus et al., 1705.04304).
        frequency_penalty: subtracted from a token's logit for each time that the answer holds it
            (OpenAI's API reference).
        presence_penalty: subtracted once from the logit of each token that the answer holds.
        logprobs: also give the log-probability of the chosen token, and this many of the likeliest
            tokens with theirs. They are the model's own, before all of the above.

    Raises:
        ValueError: a value is out of its range; the message names it.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logprobs: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature: expected a number from 0 up, found {self.temperature}")
        if problem := too_cold(self.temperature):
            raise ValueError(f"temperature: {problem}")
        for name in ("top_k", "no_repeat_ngram"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name}: expected a number from 1 up, found {number}")
        for name in ("top_p", "min_p"):
            share = getattr(self, name)
            if share is not None and not 0 < share <= 1:
                raise ValueError(f"{name}: expected a number above 0 and up to 1, found {share}")
        if not 0 < self.repetition_penalty < float("inf"):
            raise ValueError(
                f"repetition_penalty: expected a number above 0, found {self.repetition_penalty}"
            )
        for name in ("frequency_penalty", "presence_penalty"):
            penalty = getattr(self, name)
            if not -2 <= penalty <= 2:
                raise ValueError(f"{name}: expected a number from -2 to 2, found {penalty}")
        if self.logprobs is not None and self.logprobs < 0:
            raise ValueError(f"logprobs: expected a number from 0 up, found {self.logprobs}")

    @cached_property
    def penalizes(self) -> bool:
        """Whether the tokens so far change the logits of the next one."""
        return (
            self.repetition_penalty != 1
            or self.no_repeat_ngram is not None
            or self.frequency_penalty != 0
            or self.presence_penalty != 0
        )

    def penalize(self, logits: Tensor, prompt: Sequence[int], answer: Sequence[int]) -> None:
        """Lower the logits of tokens that repeat, in place: one row, (V,), in fp32."""
        tokens = [*prompt, *answer]
        if self.repetition_penalty != 1:
            seen = torch.tensor(list(set(tokens)), device=logits.device)
            found = logits[seen]
            penalty = self.repetition_penalty
            logits[seen] = torch.where(found < 0, found * penalty, found / penalty)

        if self.frequency_penalty or self.presence_penalty:
            counts = Counter(answer)
            ids = torch.tensor(list(counts), dtype=torch.long, device=logits.device)
            times = torch.tensor(list(counts.values()), device=logits.device)
            logits[ids] -= times * self.frequency_penalty + self.presence_penalty

        if self.no_repeat_ngram is not None:
            banned = next_of_ngrams(tokens, self.no_repeat_ngram)
            logits[torch.tensor(banned, dtype=torch.long, device=logits.device)] = -torch.inf

    def choose(self, logits: Tensor, generators: Sequence[torch.Generator]) -> list[int]:
        """Draw one token for each row of logits (rows, V), from that row's generator.

        The temperature must be above 0.
        """
        chances = self.chances(logits)
        tokens = []
        for row, generator in zip(chances, generators, strict=True):
            tokens.append(int(torch.multinomial(row, 1, generator=generator)))
        return tokens

    def chances(self, logits: Tensor) -> Tensor:
        """Return the weights by which tokens are drawn, (rows, V). A row may sum to less than 1."""
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

        if self.min_p is not None:
            least = self.min_p * chances.max(-1, keepdim=True).values
            chances = chances.masked_fill(chances < least, 0)
        return chances


def next_of_ngrams(tokens: Sequence[int], size: int) -> list[int]:
    """Return the tokens after which the last `size` tokens would be an n-gram for a second time."""
    start = len(tokens) - size + 1
    if start < 0:
        return []
    last = tokens[start:]
    found = []
    for index in range(start):
        if tokens[index : index + size - 1] == last:
            found.append(tokens[index + size - 1])
    return found
