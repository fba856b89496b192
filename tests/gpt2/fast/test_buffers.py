"""Buffers are used again, and only where that is right."""

import copy

import torch

from sft.gpt2.fast import BufferPool
from sft.gpt2.model import GPT, GPTConfig

LIKE = torch.zeros(1)


def test_a_buffer_that_was_given_back_is_taken_again():
    pool = BufferPool()
    buffer = pool.take(10, 7, LIKE)
    assert buffer.shape == (256, 7)
    assert pool.take(10, 7, LIKE) is not buffer
    pool.give(buffer)
    assert pool.take(200, 7, LIKE) is buffer


def test_a_buffer_of_another_width_or_type_is_not_taken():
    pool = BufferPool()
    buffer = pool.take(10, 7, LIKE)
    pool.give(buffer)
    assert pool.take(10, 8, LIKE).shape == (256, 8)
    assert pool.take(10, 7, LIKE.bfloat16()).dtype == torch.bfloat16
    assert pool.take(10, 7, LIKE) is buffer


def test_a_buffer_that_is_too_small_is_replaced_by_a_larger_one():
    pool = BufferPool()
    small = pool.take(10, 7, LIKE)
    pool.give(small)
    large = pool.take(257, 7, LIKE)
    assert large.shape == (512, 7)
    pool.give(large)
    assert pool.take(1, 7, LIKE) is large
    assert pool.take(1, 7, LIKE) is not small


def test_nothing_is_held_where_the_device_reuses_memory_itself(change_limits):
    change_limits(reuses_buffers=False)
    pool = BufferPool()
    buffer = pool.take(10, 7, LIKE)
    pool.give(buffer)
    assert pool.take(10, 7, LIKE) is not buffer


def test_a_step_gives_its_buffers_back_and_a_copy_of_the_model_has_none():
    model = GPT(GPTConfig(n_layer=1, n_head=2, n_embd=16, vocab_size=50, n_positions=12))
    ids = torch.randint(50, (3, 12))
    model.token_losses(ids, ids).sum().backward()
    [logits] = model._pool._free
    assert logits.shape == (256, 50)
    assert not copy.deepcopy(model)._pool._free
    model.token_losses(ids, ids).sum().backward()
    assert model._pool._free[0] is logits
