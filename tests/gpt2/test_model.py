"""The network computes what transformers' GPT-2 computes, with and without padding."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from sft import load_pretrained
from sft.gpt2.model import GPT, GPTConfig
from tests.kept import loss_and_kept

SHAPES = {"124M": (12, 12, 48), "355M": (24, 16, 64), "774M": (36, 20, 80), "1558M": (48, 25, 100)}
SIZES = [
    (12, 12, 768, 124_439_808),
    (24, 16, 1024, 354_823_168),
    (36, 20, 1280, 774_030_080),
    (48, 25, 1600, 1_557_611_200),
]


@pytest.fixture
def model() -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(n_layer=2, n_head=2, n_embd=16, vocab_size=50, n_positions=12))


def largest_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_logits_equal_transformers(shape, hf_model, hf_folder):
    theirs = hf_model(*shape)
    ours = load_pretrained(hf_folder(theirs)).model
    input_ids = torch.randint(400, (2, 64))
    assert largest_difference(ours(input_ids), theirs(input_ids).logits) <= 1e-4


@torch.no_grad()
def test_logits_of_the_full_124m_equal_transformers(hf_model, hf_folder):
    theirs = hf_model(12, 12, 768, vocab_size=50257, n_positions=1024)
    ours = load_pretrained(hf_folder(theirs)).model
    input_ids = torch.randint(50257, (1, 128))
    assert largest_difference(ours(input_ids), theirs(input_ids).logits) <= 1e-4


@torch.no_grad()
def test_logits_at_the_end_of_the_context_equal_transformers(hf_model, hf_folder):
    theirs = hf_model(n_positions=1024, n_inner=24, layer_norm_epsilon=1e-3)
    ours = load_pretrained(hf_folder(theirs)).model
    input_ids = torch.randint(400, (1, 1024))
    assert largest_difference(ours(input_ids), theirs(input_ids).logits) <= 1e-4


@pytest.mark.parametrize(("n_layer", "n_head", "n_embd", "parameters"), SIZES)
def test_parameters_of_the_released_sizes(n_layer, n_head, n_embd, parameters):
    with torch.device("meta"):
        model = GPT(GPTConfig(n_layer=n_layer, n_head=n_head, n_embd=n_embd))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@torch.no_grad()
def test_padding_changes_nothing(model):
    lengths = torch.tensor([5, 12, 1])
    input_ids = torch.randint(50, (3, 12))
    logits = model(input_ids, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = model(input_ids[row : row + 1, :length])[0]
        torch.testing.assert_close(logits[row, :length], alone, atol=1e-5, rtol=0)
        assert not logits[row, length:].any()


def test_features_are_the_real_tokens_alone(model):
    assert model.features(torch.zeros(2, 6, dtype=torch.long), torch.tensor([4, 6])).shape == (10, 16)


@torch.no_grad()
def test_a_token_does_not_see_those_after_it(model):
    input_ids = torch.randint(50, (1, 8))
    changed = input_ids.clone()
    changed[0, 5:] = (changed[0, 5:] + 1) % 50
    torch.testing.assert_close(model(input_ids)[:, :5], model(changed)[:, :5])


def test_token_losses_are_the_cross_entropy_at_the_labels(model):
    input_ids, lengths = torch.randint(50, (2, 6)), torch.tensor([6, 3])
    labels = torch.randint(50, (2, 6))
    labels[0, :2] = labels[1, 3:] = -100
    expected = F.cross_entropy(model(input_ids).flatten(0, 1), labels.flatten(), reduction="none")
    losses = model.token_losses(input_ids, labels, lengths)
    torch.testing.assert_close(losses, expected[labels.flatten() != -100])
    assert losses.shape == (4 + 3,)


def test_gradients_are_the_same_with_and_without_padding(model):
    input_ids, labels = torch.randint(50, (2, 6)), torch.randint(50, (2, 6))
    labels[1, 3:] = -100
    gradients = []
    for lengths in (None, torch.tensor([6, 3])):
        model.zero_grad()
        model.token_losses(input_ids, labels, lengths).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for padded, unpadded in zip(*gradients, strict=True):
        torch.testing.assert_close(padded, unpadded, atol=1e-5, rtol=1e-5)


def test_untrained_it_knows_nothing():
    torch.manual_seed(0)
    model = GPT(GPTConfig(n_layer=2, n_head=4, n_embd=64, vocab_size=1000, n_positions=32))
    losses = model.token_losses(torch.randint(1000, (8, 32)), torch.randint(1000, (8, 32)))
    assert losses.mean().item() == pytest.approx(math.log(1000), abs=0.1)


def test_dropout_is_for_training_alone():
    model = GPT(GPTConfig(n_layer=1, n_head=2, n_embd=16, vocab_size=50, n_positions=12, dropout=0.5))
    input_ids = torch.randint(50, (1, 12))
    assert not torch.equal(model(input_ids), model(input_ids))
    model.eval()
    assert torch.equal(model(input_ids), model(input_ids))


def test_rows_longer_than_the_context_are_refused(model):
    with pytest.raises(ValueError, match="13 tokens do not fit the context of 12"):
        model(torch.zeros(1, 13, dtype=torch.long))


def test_config_survives_the_trip_through_config_json():
    config = GPTConfig(n_layer=3, n_head=5, n_embd=20, vocab_size=99, n_positions=7, n_inner=11, eos_token_id=98)
    assert GPTConfig.from_hf(config.to_hf()) == config


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model_type", "llama", "model_type: 'llama' is not implemented, expected 'gpt2'"),
        ("activation_function", "relu", "activation_function: 'relu' is not implemented"),
        ("scale_attn_by_inverse_layer_idx", True, "scale_attn_by_inverse_layer_idx: True is not implemented"),
        ("scale_attn_weights", False, "scale_attn_weights: False is not implemented"),
        ("reorder_and_upcast_attn", True, "reorder_and_upcast_attn: True is not implemented"),
        ("add_cross_attention", True, "add_cross_attention: True is not implemented"),
        ("tie_word_embeddings", False, "tie_word_embeddings: False is not implemented"),
        ("n_head", 7, "n_embd: 768 cannot be divided among n_head = 7 heads"),
        ("n_layer", 0, "n_layer: expected a positive integer, found 0"),
        ("n_layer", "12", "n_layer: expected a positive integer, found '12'"),
        ("vocab_size", True, "vocab_size: expected a positive integer, found True"),
        ("n_positions", 1024.0, "n_positions: expected a positive integer, found 1024.0"),
        ("n_inner", -1, "n_inner: expected a positive integer, found -1"),
        ("n_layer", 282608098400, "n_layer: expected at most 1,000, found 282,608,098,400"),
        ("n_inner", 1 << 60, "n_inner: expected at most 16,777,216, found 1,152,921,504,606,846,976"),
        ("vocab_size", 1 << 63, "vocab_size: expected at most 16,777,216, found 9,223"),
        ("layer_norm_epsilon", 0.0, "layer_norm_epsilon: expected a positive number, found 0.0"),
        ("layer_norm_epsilon", "1e-5", "layer_norm_epsilon: expected a positive number, found '1e-5'"),
        ("initializer_range", "0.02", "initializer_range: expected a positive number, found '0.02'"),
    ],
)
def test_config_refuses_by_name(key, value, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        GPTConfig.from_hf(GPTConfig().to_hf() | {key: value})


@pytest.mark.parametrize("key", ["model_type", "n_layer", "n_head", "n_embd", "vocab_size", "n_positions"])
def test_config_names_what_is_missing(key):
    config = GPTConfig().to_hf()
    del config[key]
    with pytest.raises(ValueError, match=f"^{key}: missing"):
        GPTConfig.from_hf(config)


def kept_and_gradients(model: GPT) -> tuple[int, list[torch.Tensor]]:
    """Bytes that the forward pass keeps beside the parameters, and the gradients, of a step with dropout."""
    torch.manual_seed(1)
    ids = torch.randint(50, (3, 12))
    loss, kept = loss_and_kept(model.train(), ids, ids, torch.tensor([12, 5, 9]))
    model.zero_grad()
    loss.backward()
    return kept, [parameter.grad for parameter in model.parameters()]


def test_activation_checkpointing_keeps_less_and_changes_no_number(model):
    model = GPT(replace(model.config, n_layer=4, dropout=0.3))
    kept, gradients = kept_and_gradients(model)
    model.activation_checkpointing = True
    less, same = kept_and_gradients(model)
    assert less < kept / 2
    assert all(map(torch.equal, gradients, same))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
def test_losses_and_gradients_are_those_of_torch(model, precision):
    """Also where two batches are taken before the gradient of either, and where one batch has no gradient taken."""
    generator = torch.Generator().manual_seed(3)
    ids, labels = torch.randint(50, (2, 3, 12), generator=generator)
    labels[:, :5] = -100
    lengths = torch.tensor([12, 7, 9])
    labels[torch.arange(12) >= lengths[:, None]] = -100

    def ours(ids: torch.Tensor) -> torch.Tensor:
        return model.token_losses(ids, labels, lengths)

    def torchs(ids: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(ids).flatten(0, 1).float(), labels.flatten(), reduction="none")[
            labels.flatten() >= 0
        ]

    found = []
    for losses in (ours, torchs):
        model.zero_grad()
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            first, _, second = losses(ids), losses(ids.flip(1)), losses(ids.flip(0))
        weights = torch.linspace(0.1, 2, len(first))
        ((first * weights).sum() + second.sum()).backward()
        found.append([first.detach(), second.detach(), *(parameter.grad for parameter in model.parameters())])
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}[precision]
    for a, b in zip(*found, strict=True):
        assert largest_difference(a, b) <= tolerance * b.abs().max().item()


def test_what_stands_at_the_padding_is_not_read(model):
    lengths = torch.tensor([12, 5, 9])
    ids = torch.randint(50, (3, 12))
    wild = torch.where(torch.arange(12) < lengths[:, None], ids, -7)
    assert torch.equal(model(wild, lengths), model(ids, lengths))
    assert torch.equal(model.token_losses(wild, wild, lengths), model.token_losses(ids, ids, lengths))
    assert len(model.token_losses(ids, ids, lengths)) == 26


def test_a_copy_of_the_model_is_without_its_memory(model):
    ids = torch.randint(50, (3, 12))
    model.token_losses(ids, ids).sum().backward()
    assert model._kept._free
    assert not copy.deepcopy(model)._kept._free
