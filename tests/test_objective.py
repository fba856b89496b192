"""The loss of a batch: its sum, its count, and the borders of its rows."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from sft.checkpoint.folder import load_pretrained
from sft.config.schema import DpoConfig
from sft.data.batches import IGNORE_INDEX, Batch
from sft.objective import CrossEntropy, Preference

X = IGNORE_INDEX
IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0], [11, 12, 13, 0]])
LABELS = torch.tensor([[X, 7, 8, 9], [X, X, X, X], [12, X, 14, X]])
BATCH = Batch(IDS, LABELS, torch.tensor([4, 2, 3]), torch.arange(3), 5, 9)


def test_a_loss_keeps_the_borders_of_its_rows(checkpoint: Path) -> None:
    model = load_pretrained(checkpoint).model.eval()
    loss = CrossEntropy(model).loss(BATCH)
    each = F.cross_entropy(model(IDS).transpose(1, 2), LABELS, reduction="none")
    rows = loss.rows()
    assert [len(row) for row in rows] == [3, 0, 2]
    for found, expected, labels in zip(rows, each, LABELS, strict=True):
        torch.testing.assert_close(found, expected[labels != X], atol=1e-5, rtol=0)
    assert loss.count == 5
    assert float(loss.sum) == pytest.approx(float(each.sum()), abs=1e-4)


def test_a_prompts_labels_count_for_their_weight(checkpoint: Path) -> None:
    model = load_pretrained(checkpoint).model.eval()
    answers = torch.tensor([[X, 0, 1, 1], [X] * 4, [0, X, 1, X]]) == 1
    batch = BATCH._replace(answers=answers)
    each = CrossEntropy(model).loss(batch).each.tolist()
    loss = CrossEntropy(model, prompt_weight=0.25).loss(batch)
    expected = 0.25 * each[0] + each[1] + each[2] + 0.25 * each[3] + each[4]
    assert float(loss.sum) == pytest.approx(expected, rel=1e-6)
    assert loss.count == 3.5
    assert loss.extra is not None
    assert loss.extra[0].tolist() == pytest.approx([each[1] + each[2] + each[4], 3], rel=1e-6)
    assert float(loss.extra[1, 1]) == 5  # accuracy is of all labels

    # At the weight 1 the sum is the plain one, bit for bit.
    plain = CrossEntropy(model).loss(batch)
    assert torch.equal(plain.sum, plain.each.sum())
    assert plain.count == 5


def test_a_batch_without_labels_has_a_loss_of_zero(checkpoint: Path) -> None:
    nothing = BATCH._replace(labels=torch.full_like(LABELS, X))
    loss = CrossEntropy(load_pretrained(checkpoint).model).loss(nothing)
    assert loss.count == 0
    assert float(loss.sum) == 0
    assert [len(row) for row in loss.rows()] == [0, 0, 0]


# Two pairs: chosen rows of 3 and 1 labels, rejected rows of 2 and 2.
PAIR_IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 0], [5, 6, 12, 0], [9, 10, 13, 14]])
PAIR_LABELS = torch.tensor([[X, 7, 8, 15], [X, 11, X, X], [X, 12, 15, X], [X, X, 14, 15]])
LENGTHS = torch.tensor([4, 3, 3, 4])
REFERENCE = torch.tensor([-20.0, -5.0, -11.0, -14.0])
PAIRS = Batch(PAIR_IDS, PAIR_LABELS, LENGTHS, torch.tensor([0, 1, 0, 1]), 2, 14, REFERENCE)


@pytest.mark.parametrize("kind", ["sigmoid", "ipo", "norm"])
def test_preferences_have_the_loss_of_their_formula(checkpoint: Path, kind: Any) -> None:
    model = load_pretrained(checkpoint).model.eval()
    logprobs = model(PAIR_IDS).log_softmax(-1)
    ratios = []
    for row in range(4):
        learned = (PAIR_LABELS[row] != X).nonzero().squeeze(1)
        total = sum(logprobs[row, place, PAIR_LABELS[row, place]] for place in learned.tolist())
        ratios.append(float(total) - float(REFERENCE[row]))

    beta = 0.3
    expected = []
    for chosen, rejected, sizes in ((0, 2, (3, 2)), (1, 3, (1, 2))):
        if kind == "sigmoid":
            sizes = (1, 1)
        gap = ratios[chosen] / sizes[0] - ratios[rejected] / sizes[1]
        logistic = math.log1p(math.exp(-beta * gap))
        expected.append((gap - 1 / (2 * beta)) ** 2 if kind == "ipo" else logistic)

    loss = Preference(model, DpoConfig(beta, kind)).loss(PAIRS)
    assert loss.each.tolist() == pytest.approx(expected, rel=1e-4)
    assert loss.count == 2
    margins = [beta * (ratios[0] - ratios[2]), beta * (ratios[1] - ratios[3])]
    right = sum(margin > 0 for margin in margins)
    assert loss.extra is not None
    expected_extra = torch.tensor([[sum(margins), 2], [right, 2]])
    torch.testing.assert_close(loss.extra, expected_extra, atol=1e-3, rtol=0)


def test_a_filler_row_is_no_pair_and_has_a_gradient_of_zero(checkpoint: Path) -> None:
    model = load_pretrained(checkpoint).model
    one = torch.ones(1, dtype=torch.long)
    filler = Batch(one[None], one[None] * X, one, -one, 2, 14)
    loss = Preference(model, DpoConfig()).loss(filler)
    assert loss.count == 0
    loss.sum.backward()
    assert float(loss.sum.detach()) == 0
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert grads
    assert not any(grad.any() for grad in grads)
