"""A frozen model answers as before; in int8 nearly so."""

import pytest
import torch

from sft import load_pretrained
from sft.gpt2.fast import LIMITS, Int8, Packed, can_pack
from sft.gpt2.frozen import freeze
from sft.gpt2.generate import generate


@pytest.fixture
def make_model(hf_model, hf_folder):
    def make(tied=True):
        theirs = hf_model(n_layer=3, n_head=4, n_embd=32, tie_word_embeddings=tied)
        return load_pretrained(hf_folder(theirs), dtype=torch.bfloat16).model.eval()

    return make


@torch.no_grad()
@pytest.mark.parametrize(("tied", "int8"), [(True, False), (False, True)])
def test_frozen_logits_and_losses_are_those_of_the_weights(make_model, tied, int8):
    model = make_model(tied)
    plain = make_model(tied)
    freeze(model, int8=int8)
    assert model.h[0].mlp.c_fc.weight is None or not can_pack(plain.wte.weight)

    near = {"atol": 0.03, "rtol": 0.05}
    for tokens in (1, 5, 40):
        ids = torch.arange(tokens).unsqueeze(0)
        torch.testing.assert_close(model(ids), plain(ids), **near)
        given = (ids, ids + 1, torch.tensor([tokens]))
        torch.testing.assert_close(model.token_losses(*given), plain.token_losses(*given), **near)


@torch.no_grad()
def test_int8_is_the_nearest_of_255_numbers():
    rows = [[1.0, -0.5, 0.25], [0.0, 0.0, 0.0], [3.0, 2.984375, -3.0]]
    form = Int8(torch.tensor(rows, dtype=torch.bfloat16))
    assert form.numbers.tolist() == [[127, -64, 32], [0, 0, 0], [127, 126, -127]]
    assert form.scales.dtype == torch.bfloat16


@torch.no_grad()
@pytest.mark.parametrize("width", [3, 16, 40, 64])
def test_both_products_of_int8_are_near_that_of_the_weights(width):
    few = LIMITS["cpu"].int8_tokens
    weight = torch.rand(40, width).to(torch.bfloat16)
    bias = torch.ones(40, dtype=torch.bfloat16)
    form = Int8(weight)
    for tokens in (1, few, few + 1):
        x = torch.randn(tokens, width).to(torch.bfloat16)
        torch.testing.assert_close(form(x, bias), x @ weight.t() + bias, atol=0.1, rtol=0.02)


def test_models_share_the_forms_of_the_matrices_that_they_share(make_model):
    model = make_model()
    other = make_model()
    other.h[1].mlp.c_fc.weight.data = model.h[1].mlp.c_fc.weight.data
    freeze(model, other, int8=True)
    assert other.h[1].mlp.c_fc.frozen is model.h[1].mlp.c_fc.frozen
    assert other.h[0].mlp.c_fc.frozen is not model.h[0].mlp.c_fc.frozen
    assert other.frozen_head is not model.frozen_head

    head = model.frozen_head
    freeze(model)
    assert model.frozen_head is head


def test_int8_and_bf16_give_the_same_answer_where_words_differ_clearly(make_model):
    plain = load_pretrained("gpt2-nano", dtype=torch.bfloat16).model.eval()
    prompt = list(range(20, 40))
    expected = generate(plain, [prompt], 8)
    freeze(plain, int8=True)
    assert isinstance(plain.frozen_head, Int8)
    assert generate(plain, [prompt], 8) == expected


@torch.no_grad()
def test_packed_equals_the_product(make_model):
    weight = torch.randn(40, 24).to(torch.bfloat16)
    if not can_pack(weight):
        pytest.skip("oneDNN has no products in bf16 here")
    for tokens in (1, 16, 33):
        x = torch.randn(tokens, 24).to(torch.bfloat16)
        bias = torch.randn(40).to(torch.bfloat16)
        near = {"atol": 0.05, "rtol": 0.02}
        torch.testing.assert_close(Packed(weight)(x, bias), x @ weight.t() + bias, **near)
    assert not can_pack(weight.float())
