"""`linear_of_few` equals torch's linear, and is used where it should be."""

import pytest
import torch
import torch.nn.functional as F

from sft import load_pretrained
from sft.gpt2.fast import LIMITS, few_tokens, linear_of_few


@pytest.mark.parametrize("tokens", [1, 2, 31, 256])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_linear_of_few_equals_torchs_linear(tokens, biased, dtype, tolerance):
    torch.manual_seed(0)
    x = torch.randn(tokens, 24, dtype=dtype)
    weight = torch.randn(40, 24, dtype=dtype)
    bias = torch.randn(40, dtype=dtype) if biased else None
    found = linear_of_few(x, weight, bias)
    assert found.dtype == dtype
    torch.testing.assert_close(found, F.linear(x, weight, bias), atol=tolerance, rtol=tolerance)


def test_only_few_bf16_tokens_without_gradient_or_autocast_count_as_few():
    limit = LIMITS["cpu"].few_tokens
    few = torch.zeros(limit, 3, dtype=torch.bfloat16)
    many = torch.zeros(limit + 1, 3, dtype=torch.bfloat16)
    assert not few_tokens(few)
    with torch.no_grad():
        assert few_tokens(few)
        assert not few_tokens(many)
        assert not few_tokens(few.float())
        with torch.autocast("cpu", torch.bfloat16):
            assert not few_tokens(few)


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 2, 31, 60])
def test_bf16_logits_are_those_of_torchs_linear(
    tokens, hf_model, hf_folder, change_limits, monkeypatch
):
    theirs = hf_model(n_layer=3, n_head=4, n_embd=32)
    model = load_pretrained(hf_folder(theirs)).model.to(torch.bfloat16)
    ids = torch.arange(tokens).unsqueeze(0)
    calls = []
    torchs = F.linear
    monkeypatch.setattr(F, "linear", lambda *given: calls.append(1) or torchs(*given))

    found = model(ids)
    assert not calls
    change_limits(few_tokens=0)
    torch.testing.assert_close(found, model(ids), atol=0.02, rtol=0.05)
    assert len(calls) == 3 * 4 + 1
