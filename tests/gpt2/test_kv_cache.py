"""A new token sees its whole row through the cache, and nothing else of it."""

import torch

from sft.gpt2.kv_cache import KVCache
from sft.gpt2.model import attention
from sft.gpt2.padding import Padding


def test_a_new_token_attends_as_if_its_row_were_read_again():
    torch.manual_seed(0)
    lengths = torch.tensor([5, 2])
    cache = KVCache(layers=1, slots=3, size=16)
    prompts = Padding(torch.zeros(2, 5, dtype=torch.long), lengths)
    qkv = torch.randn(len(prompts.ids), 3, 2, 4)  # (N, 3, nh, hs)
    cache.prefill(qkv, layer=0, slot=0, prompts=prompts)

    new = torch.randn(2, 3, 2, 4)
    visible = torch.arange(6) <= lengths.unsqueeze(1)  # (2, S)
    mask = torch.where(visible, 0.0, -torch.inf)[:, None, None]
    found = cache.extend(new, layer=0, slots=torch.arange(2), positions=lengths, mask=mask)

    rows = [torch.cat([qkv[:5], new[:1]]), torch.cat([qkv[5:7], new[1:]])]
    for row, tokens in enumerate(rows):
        q, k, v = tokens.permute(1, 2, 0, 3).unsqueeze(1)  # each (1, nh, T, hs)
        expected = attention(q, k, v)[0, :, -1]
        torch.testing.assert_close(found[row], expected, atol=1e-6, rtol=1e-5)


def test_a_moved_row_is_read_from_its_new_slot():
    cache = KVCache(layers=2, slots=2, size=8)
    cache.kv = torch.randn(2, 2, 2, 3, 8, 4)  # (layers, slots, 2, nh, S, hs)
    before = cache.kv.clone()
    cache.move(source=1, target=0, length=5)
    assert torch.equal(cache.kv[:, 0, :, :, :5], before[:, 1, :, :, :5])
    assert torch.equal(cache.kv[:, 0, :, :, 5:], before[:, 0, :, :, 5:])
    assert torch.equal(cache.kv[:, 1], before[:, 1])
