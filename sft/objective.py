"""The objective: the one place that turns a batch into the loss that training minimises.

Training, evaluation and the memory check all call `loss(batch)`. Another objective is another class
with this method.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sft.config.schema import DpoConfig
from sft.data.batches import IGNORE_INDEX, Batch
from sft.gpt2.model import GPT


@dataclass(frozen=True)
class BatchLoss:
    """The losses of a batch, one for each supervised token, with the borders of its rows kept.

    Attributes:
        each: (N,), in nats and fp32, row after row. Of preferences: one for each pair.
        labels: (B, T)
        weights: (N,), the weight of each loss; None: each weighs 1.
        extra: (numbers, 2), sum and count of each number that the objective measures besides the
            loss, in the order of its `names`; None if it has none.
    """

    each: Tensor
    labels: Tensor
    extra: Tensor | None = None
    weights: Tensor | None = None

    @property
    def sum(self) -> Tensor:
        """The sum of the losses. Training divides it by the count of the whole optimizer step."""
        return self.each.sum() if self.weights is None else (self.each * self.weights).sum()

    @property
    def count(self) -> float:
        """The divisor of the sum; over the batches of a step it is `step_targets`.

        It is the number of supervised tokens, or the sum of their weights.
        """
        return (
            len(self.each) if self.weights is None else float(self.weights.sum(dtype=torch.double))
        )

    def rows(self) -> tuple[Tensor, ...]:
        """Return the losses of each row apart: B tensors of (supervised tokens of the row,)."""
        return torch.split(self.each, tokens_of_rows(self.labels))


def tokens_of_rows(labels: Tensor) -> list[int]:
    """Return how many tokens of each row are supervised, for labels (B, T)."""
    counts: list[int] = (labels != IGNORE_INDEX).sum(1).tolist()
    return counts


class Objective(Protocol):
    """A model, and the loss of a batch that is on the model's device.

    Attributes:
        names: of the numbers that are measured besides the loss.
    """

    model: GPT
    names: tuple[str, ...]

    def loss(self, batch: Batch) -> BatchLoss:
        """Return the losses of a batch; their sum has a gradient unless autograd is off."""


class CrossEntropy:
    """The cross entropy of the next token, at each position with a label.

    Beside it, it measures the loss of the answers alone, which can be compared between weights, and
    the accuracy: the share of all labels than which no token was likelier.

    Args:
        prompt_weight: the weight of a label outside the answers (2405.14394).
    """

    names: tuple[str, ...] = ("answer_loss", "token_accuracy")

    def __init__(self, model: GPT, prompt_weight: float = 1.0) -> None:
        self.model = model
        self.prompt_weight = prompt_weight

    def loss(self, batch: Batch) -> BatchLoss:
        # The CPU waits for a GPU to count the mask. It does so before the layers, when there is
        # little to wait for.
        is_answer: Tensor | None = None
        if batch.answers is not None:
            is_answer = batch.answers[batch.labels != IGNORE_INDEX]  # (N,)

        each, hits = self.model.token_scores(batch.input_ids, batch.labels, batch.lengths)
        losses = each.detach()
        # `new_tensor` would wait for a GPU, as it copies from the CPU. Filling does not.
        tokens = losses.new_full((), len(losses))
        accuracy = [hits.sum().to(losses), tokens]
        if is_answer is None:
            extra = torch.stack([losses.sum(), tokens, *accuracy]).view(2, 2)
            return BatchLoss(each, batch.labels, extra)

        of_answers = [(losses * is_answer).sum(), is_answer.sum().to(losses)]
        extra = torch.stack([*of_answers, *accuracy]).view(2, 2)
        weights = None
        if self.prompt_weight != 1:
            weights = torch.where(is_answer, 1.0, self.prompt_weight)
        return BatchLoss(each, batch.labels, extra, weights)


class Preference:
    """Direct preference optimization (DPO): prefer the chosen answers to the rejected ones.

    Source: Rafailov et al., "Direct Preference Optimization: Your Language Model is Secretly a
    Reward Model" (2305.18290), equation 7. With r = log p(answer) - log p_reference(answer), the
    loss of a pair is

        sigmoid  -log sigmoid(beta * (r_chosen - r_rejected))
        norm     the same, with each r divided by the answer's tokens (2411.15124)
        ipo      (r_chosen - r_rejected - 1 / (2 beta))^2, each r divided as in `norm` (2310.12036)

    Beside the loss it measures the margin, beta * (r_chosen - r_rejected), and the accuracy, which
    is the share of pairs whose margin is above 0.
    """

    names: tuple[str, ...] = ("margin", "accuracy")

    def __init__(self, model: GPT, config: DpoConfig) -> None:
        self.model = model
        self.config = config

    def loss(self, batch: Batch) -> BatchLoss:
        """Return the loss of each pair.

        Args:
            batch: its rows are the chosen answers, then the rejected ones; the labels are those of
                the answers alone. Its `reference` has the log-probability of each row. A filler
                row is not a pair.
        """
        logprobs = row_logprobs(self.model, batch)  # (B,)
        pairs = len(logprobs) // 2
        ratios = logprobs if batch.reference is None else logprobs - batch.reference
        chosen, rejected = ratios[:pairs], ratios[pairs : 2 * pairs]  # (pairs,)

        beta = self.config.beta
        margins = beta * (chosen - rejected)
        if self.config.loss == "sigmoid":
            each = -F.logsigmoid(margins)
        else:
            sizes = (batch.labels != IGNORE_INDEX).sum(1)  # (B,)
            of_chosen = chosen / sizes[:pairs].clamp(min=1)
            of_rejected = rejected / sizes[pairs : 2 * pairs].clamp(min=1)
            if self.config.loss == "norm":
                each = -F.logsigmoid(beta * (of_chosen - of_rejected))
            else:
                each = (of_chosen - of_rejected - 1 / (2 * beta)) ** 2

        sums = torch.stack([margins.detach().sum(), (margins > 0).float().sum()])
        extra = torch.stack([sums, torch.full_like(sums, pairs)], dim=1)
        return BatchLoss(each, batch.labels, extra)


def row_logprobs(model: GPT, batch: Batch) -> Tensor:
    """Return the log-probability of the labels of each row, (B,), in nats and fp32."""
    sizes = tokens_of_rows(batch.labels)
    losses = model.token_losses(batch.input_ids, batch.labels, batch.lengths)
    return -torch.stack([row.sum() for row in torch.split(losses, sizes)])
