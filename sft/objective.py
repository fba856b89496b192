"""The objective: the one place that turns a batch into the loss that training minimises.

Training, evaluation and the memory check all call `loss(batch)`. Another objective is another class
with this method.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sft.data.batches import IGNORE_INDEX, Batch
from sft.gpt2.model import GPT


@dataclass(frozen=True)
class BatchLoss:
    """The losses of a batch, one for each supervised token, with the borders of its rows kept.

    Attributes:
        each: (N,), in nats and fp32, row after row.
        labels: (B, T)
    """

    each: Tensor
    labels: Tensor

    @property
    def sum(self) -> Tensor:
        """The sum of the losses. Training divides it by the count of the whole optimizer step."""
        return self.each.sum()

    @property
    def count(self) -> int:
        """The number of supervised tokens; over the batches of a step it is `step_targets`."""
        return len(self.each)

    def rows(self) -> tuple[Tensor, ...]:
        """Return the losses of each row apart: B tensors of (supervised tokens of the row,)."""
        return torch.split(self.each, tokens_of_rows(self.labels))


def tokens_of_rows(labels: Tensor) -> list[int]:
    """Return how many tokens of each row are supervised, for labels (B, T)."""
    counts: list[int] = (labels != IGNORE_INDEX).sum(1).tolist()
    return counts


class Objective(Protocol):
    """A model, and the loss of a batch that is on the model's device."""

    model: GPT

    def loss(self, batch: Batch) -> BatchLoss:
        """Return the losses of a batch; their sum has a gradient unless autograd is off."""


class CrossEntropy:
    """The cross entropy of the next token, at each position with a label."""

    def __init__(self, model: GPT) -> None:
        self.model = model

    def loss(self, batch: Batch) -> BatchLoss:
        each = self.model.token_losses(batch.input_ids, batch.labels, batch.lengths)
        return BatchLoss(each, batch.labels)
