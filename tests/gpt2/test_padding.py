"""A padded batch and the stream of its real tokens hold the same, and each leads to the other."""

import pytest
import torch

from sft.gpt2.padding import Padding

IDS = torch.tensor([[11, 12, 13], [21, 0, 0], [31, 32, 0]])


def test_the_stream_holds_the_real_tokens_row_after_row():
    rows = Padding(IDS, torch.tensor([3, 1, 2]))
    assert rows.count == 6
    assert rows.ids[:6].tolist() == [11, 12, 13, 21, 31, 32]
    assert rows.positions()[:6].tolist() == [0, 1, 2, 0, 0, 1]
    assert len(rows.ids) == len(rows.positions()) == 32


def test_without_lengths_every_token_is_real():
    rows = Padding(IDS, None)
    assert rows.count == 9
    assert rows.ids.tolist() == [11, 12, 13, 21, 0, 0, 31, 32, 0]
    assert rows.positions().tolist() == [0, 1, 2] * 3
    assert torch.equal(rows.pad(rows.ids), IDS)


def test_the_batch_comes_back_with_zeros_at_the_padding():
    rows = Padding(IDS - 5, torch.tensor([3, 1, 2]))
    assert rows.pad(rows.ids).tolist() == [[6, 7, 8], [16, 0, 0], [26, 27, 0]]


@pytest.mark.parametrize("lengths", [None, torch.tensor([3, 1, 2])])
def test_heads_that_are_split_and_merged_are_the_stream_again(lengths):
    rows = Padding(IDS, lengths)
    qkv = torch.randn(len(rows.ids), 3, 2, 4)  # (N, 3, nh, hs)
    q, k, v = rows.split_heads(qkv)
    assert q.shape == (3, 2, 3, 4)  # (B, nh, T, hs)
    for part, tensor in enumerate((q, k, v)):
        found = rows.merge_heads(tensor)[: rows.count]
        assert torch.equal(found, qkv[: rows.count, part])
    assert torch.equal(k[0, 1, 2], qkv[2, 1, 1])


def test_tokens_of_other_rows_count_towards_the_multiple():
    rows = Padding(IDS, torch.tensor([3, 1, 2]), other_tokens=20)
    assert rows.count == 6
    assert len(rows.ids) == 12
