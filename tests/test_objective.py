"""The loss of a batch: its sum, its count, and the borders of its rows."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from sft.checkpoint.folder import load_pretrained
from sft.data.batches import IGNORE_INDEX, Batch
from sft.objective import CrossEntropy

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


def test_a_batch_without_labels_has_a_loss_of_zero(checkpoint: Path) -> None:
    nothing = BATCH._replace(labels=torch.full_like(LABELS, X))
    loss = CrossEntropy(load_pretrained(checkpoint).model).loss(nothing)
    assert loss.count == 0
    assert float(loss.sum) == 0
    assert [len(row) for row in loss.rows()] == [0, 0, 0]
