"""The losses of records, measured as in training."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from sft.bars import Bar
from sft.data.batches import Examples
from sft.device import DTYPES, AnswerPrecision
from sft.errors import InputError
from sft.gpt2.fast import row_multiple
from sft.gpt2.model import GPT
from sft.objective import CrossEntropy

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Losses:
    """The summed cross entropies of each row, in nats, and the numbers of tokens summed over.

    Each is of shape (rows,). `answer`: of the last expected answer alone. `learned`: of all tokens
    that training learns, which may include the prompt.
    """

    answer_sums: Numbers
    answer_tokens: Numbers
    learned_sums: Numbers
    learned_tokens: Numbers

    @property
    def answers(self) -> float:
        """Return the mean over all tokens of the answers; NaN if there are none."""
        return _ratio(self.answer_sums, self.answer_tokens)

    @property
    def learned(self) -> float:
        """Return the mean over all tokens that training learns; NaN if there are none."""
        return _ratio(self.learned_sums, self.learned_tokens)


def _ratio(sums: Numbers, counts: Numbers) -> float:
    return float(sums.sum() / counts.sum()) if counts.sum() else math.nan


@torch.no_grad()
def losses(
    model: GPT, examples: Examples, batch_size: int, precision: AnswerPrecision, name: str = "loss"
) -> Losses:
    """Measure the losses of every row.

    The weights are fp32, with autocast for a lower precision, as in training. So the numbers can be
    compared with those that training reports. With int8, the model is one that `freeze` made.

    Args:
        name: of the progress bar.

    Raises:
        InputError: a loss is not finite.
    """
    found: list[list[float]] = []
    starts = range(0, len(examples), batch_size)
    for start in Bar(starts, desc=name, unit="batch", leave=False, disable=not starts):
        rows = range(start, min(start + batch_size, len(examples)))
        found += _losses_of_rows(model, examples, rows, precision)
    if not np.isfinite(found).all():
        raise InputError(
            f"precision: with {precision} the loss is not finite; use precision=32, or the weights "
            "contain NaN"
        )
    columns = np.array(found, dtype=np.float64).reshape(-1, 4).T
    return Losses(*columns)


def _losses_of_rows(
    model: GPT, examples: Examples, rows: range, precision: AnswerPrecision
) -> list[list[float]]:
    """Return the four numbers of `Losses` for each of these rows, which form one batch."""
    device = model.wte.weight.device
    batch = examples.batch(rows, multiple=row_multiple(device.type))
    on_device = batch._replace(
        input_ids=batch.input_ids.to(device),
        labels=batch.labels.to(device),
        lengths=batch.lengths.to(device),
        answers=None,
    )
    mixed = precision in ("bf16-mixed", "16-mixed")
    with torch.autocast(device.type, DTYPES[precision], enabled=mixed):
        loss = CrossEntropy(model).loss(on_device)

    # The last answer is the end of its row, whatever else training learns.
    places = list(rows)
    first = np.maximum(examples.prompts[places], 1)
    answers = np.maximum(examples.sizes[places] - first, 0).tolist()
    learned = replace(loss, each=loss.each.cpu().double(), labels=batch.labels).rows()
    return [
        [float(row[len(row) - answer :].sum()), answer, float(row.sum()), len(row)]
        for row, answer in zip(learned, answers, strict=True)
    ]
