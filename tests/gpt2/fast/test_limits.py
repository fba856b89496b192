"""Whoever changes a limit need not know who reads it: the memory estimate follows the table."""

from dataclasses import fields

import pytest
import torch

from sft.gpt2.fast import LIMITS, Limits, row_multiple
from sft.gpt2.model import GPT, GPTConfig
from sft.training.estimate import Shape, batch_bytes
from tests.kept import loss_and_kept


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"token_multiple": 1},
        {"token_multiple": 96},
        {"plain_attention": 0},
        {"plain_attention": 30},
        {"buffer_multiple": 1},
        {"buffer_multiple": 2048},
        {"reuses_buffers": False},
    ],
)
@pytest.mark.parametrize("length", [30, 31])
def test_the_memory_estimate_is_what_torch_keeps_after_a_limit_changed(
    values, length, change_limits
):
    change_limits(**values)
    torch.manual_seed(0)
    config = GPTConfig(n_layer=3, n_head=4, n_embd=64, vocab_size=500, n_positions=40)
    model = GPT(config).train()
    lengths = torch.tensor([length, length - 9, 4])
    ids = torch.randint(500, (3, length))
    labels = ids.where(torch.arange(length) < lengths[:, None], -100)

    tokens = int(lengths.sum())
    estimate = batch_bytes(model, Shape(3, length, tokens, tokens), torch.float32, "cpu")
    _, kept = loss_and_kept(model, ids, labels, lengths)
    assert estimate == pytest.approx(kept, rel=0.01)


def test_every_device_has_its_limits_and_rows_are_padded_by_them():
    assert LIMITS.keys() == {"cpu", "cuda", "mps"}
    for limits in LIMITS.values():
        for field in fields(Limits):
            assert getattr(limits, field.name) >= 0
    assert [row_multiple(device) for device in ("cpu", "cuda", "mps")] == [16, 16, 64]
