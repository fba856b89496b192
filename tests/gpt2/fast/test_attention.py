"""The formula and torch's fused attention are equal, and each is used where it is the faster."""

import pytest
import torch
import torch.nn.functional as F

from sft.gpt2.fast import LIMITS, fused_attention_pays
from sft.gpt2.model import GPT, GPTConfig, attention

DTYPES = [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)]


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_the_formula_with_a_mask_is_torchs_attention(dtype, tolerance):
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, length, 8, dtype=dtype) for length in (1, 9, 9))
    visible = (torch.arange(9) < torch.tensor([[9], [4], [1]]))[:, None, None]  # (3, 1, 1, 9)
    expected = F.scaled_dot_product_attention(q, k, v, visible)
    mask = torch.where(visible, 0.0, -torch.inf).to(dtype).expand(3, 2, 1, 9).flatten(0, 1)
    torch.testing.assert_close(attention(q, k, v, mask), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_the_causal_formula_is_torchs_attention_with_its_gradients(dtype, tolerance, change_limits):
    results = []
    for plain_attention in (0, 256):
        change_limits(plain_attention=plain_attention)
        torch.manual_seed(0)
        qkv = [torch.randn(2, 3, 11, 8, dtype=dtype, requires_grad=True) for _ in range(3)]
        y = attention(*qkv)
        y.square().sum().backward()
        results.append([y.detach(), *(tensor.grad for tensor in qkv)])
    for fused, plain in zip(*results, strict=True):
        torch.testing.assert_close(plain, fused, atol=8 * tolerance, rtol=tolerance)


def test_rows_up_to_the_limit_are_written_out_and_longer_ones_are_fused(monkeypatch):
    limit = LIMITS["cpu"].plain_attention
    torchs = F.scaled_dot_product_attention
    lengths = []

    def noted(q, *given, **options):
        lengths.append(q.shape[2])
        return torchs(q, *given, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", noted)
    for length in (1, limit, limit + 1):
        q = torch.randn(1, 1, length, 4)
        attention(q, q, q)
        assert fused_attention_pays(q) == (length > limit)
    assert lengths == [limit + 1]


@torch.no_grad()
@pytest.mark.parametrize("plain_attention", [0, 256])
def test_a_token_does_not_see_those_after_it(plain_attention, change_limits):
    change_limits(plain_attention=plain_attention)
    torch.manual_seed(0)
    model = GPT(GPTConfig(n_layer=2, n_head=2, n_embd=16, vocab_size=50, n_positions=12))
    input_ids = torch.randint(50, (1, 8))
    changed = input_ids.clone()
    changed[0, 5:] = (changed[0, 5:] + 1) % 50
    torch.testing.assert_close(model(input_ids)[:, :5], model(changed)[:, :5])
    assert not torch.allclose(model(input_ids)[:, 5:], model(changed)[:, 5:])
