"""The network computes what transformers' GPT-2 computes, with and without padding."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from sft import load_pretrained
from sft.gpt2.model import GPT, GPTConfig
from tests.kept import loss_and_kept

# Layers and heads of the released sizes, with fewer channels.
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
def test_released_sizes_have_their_published_number_of_parameters(
    n_layer, n_head, n_embd, parameters
):
    with torch.device("meta"):
        model = GPT(GPTConfig(n_layer=n_layer, n_head=n_head, n_embd=n_embd))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@torch.no_grad()
def test_padded_rows_have_the_logits_that_they_have_alone(model):
    lengths = torch.tensor([5, 12, 1])
    input_ids = torch.randint(50, (3, 12))
    logits = model(input_ids, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = model(input_ids[row : row + 1, :length])[0]
        torch.testing.assert_close(logits[row, :length], alone, atol=1e-5, rtol=0)
        assert not logits[row, length:].any()


def test_features_have_a_row_for_each_real_token_and_no_other(model):
    input_ids = torch.zeros(2, 6, dtype=torch.long)
    assert model.features(input_ids, torch.tensor([4, 6])).shape == (10, 16)


def test_token_losses_are_minus_the_log_chance_of_each_label(model):
    input_ids = torch.tensor([[7, 3, 4, 9], [7, 8, 0, 0]])
    labels = torch.tensor([[-100, 4, 9, 2], [8, 1, -100, -100]])
    logs = model(input_ids).log_softmax(-1)
    expected = [logs[0, 1, 4], logs[0, 2, 9], logs[0, 3, 2], logs[1, 0, 8], logs[1, 1, 1]]
    losses = model.token_losses(input_ids, labels, torch.tensor([4, 2]))
    torch.testing.assert_close(losses, -torch.stack(expected))


def test_token_losses_are_the_cross_entropy_at_the_labels(model):
    input_ids = torch.randint(50, (2, 6))
    labels = torch.randint(50, (2, 6))
    lengths = torch.tensor([6, 3])
    labels[0, :2] = -100
    labels[1, 3:] = -100
    logits = model(input_ids).flatten(0, 1)
    expected = F.cross_entropy(logits, labels.flatten(), reduction="none")
    losses = model.token_losses(input_ids, labels, lengths)
    torch.testing.assert_close(losses, expected[labels.flatten() != -100])
    assert losses.shape == (4 + 3,)


def test_gradients_are_the_same_with_and_without_padding(model):
    input_ids = torch.randint(50, (2, 6))
    labels = torch.randint(50, (2, 6))
    labels[1, 3:] = -100
    gradients = []
    for lengths in (None, torch.tensor([6, 3])):
        model.zero_grad()
        model.token_losses(input_ids, labels, lengths).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for padded, unpadded in zip(*gradients, strict=True):
        torch.testing.assert_close(padded, unpadded, atol=1e-5, rtol=1e-5)


def test_an_untrained_model_has_the_loss_of_equal_chances():
    torch.manual_seed(0)
    model = GPT(GPTConfig(n_layer=2, n_head=4, n_embd=64, vocab_size=1000, n_positions=32))
    losses = model.token_losses(torch.randint(1000, (8, 32)), torch.randint(1000, (8, 32)))
    assert losses.mean().item() == pytest.approx(math.log(1000), abs=0.1)


def test_dropout_is_random_in_training_and_off_in_evaluation():
    config = GPTConfig(n_layer=1, n_head=2, n_embd=16, vocab_size=50, n_positions=12, dropout=0.5)
    model = GPT(config)
    input_ids = torch.randint(50, (1, 12))
    assert not torch.equal(model(input_ids), model(input_ids))
    model.eval()
    assert torch.equal(model(input_ids), model(input_ids))


@pytest.mark.parametrize("plain_attention", [0, 256])
def test_dropout_reaches_the_attention_weights(model, plain_attention, change_limits):
    change_limits(plain_attention=plain_attention)
    attention = model.h[0].attn
    attention.dropout.p = 0.5
    attention.c_proj = torch.nn.Identity()
    rows = model._rows(torch.zeros(1, 12, dtype=torch.long), None)
    x = torch.randn(12, 16)
    torch.manual_seed(0)
    first = attention(x, rows)
    torch.manual_seed(0)
    only_output = F.dropout(attention.eval()(x, rows), 0.5)
    assert not torch.allclose(first, only_output)


@pytest.mark.parametrize("method", ["forward", "features"])
def test_rows_longer_than_the_context_are_refused(model, method):
    with pytest.raises(ValueError, match=r"13 tokens .* context of 12"):
        getattr(model, method)(torch.zeros(1, 13, dtype=torch.long))


def kept_and_gradients(model: GPT) -> tuple[int, list[torch.Tensor]]:
    """Return the bytes kept for the backward pass, and the gradients, of a step with dropout."""
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


def test_ids_and_labels_at_the_padding_are_not_read(model):
    lengths = torch.tensor([12, 5, 9])
    ids = torch.randint(50, (3, 12))
    wild = torch.where(torch.arange(12) < lengths[:, None], ids, -7)
    assert torch.equal(model(wild, lengths), model(ids, lengths))
    losses = model.token_losses(ids, ids, lengths)
    assert torch.equal(model.token_losses(wild, wild, lengths), losses)
    assert len(losses) == 26


def test_noise_on_embeddings_is_bounded_by_each_rows_length_and_off_in_evaluation(model):
    lengths = torch.tensor([4, 9])
    input_ids = torch.randint(50, (2, 9))
    seen = []
    model.layers = lambda embeddings, positions, rows: seen.append(embeddings) or embeddings
    model.neftune = 3.0
    model.train().features(input_ids, lengths)
    model.eval().features(input_ids, lengths)
    noise = (seen[0] - seen[1])[:13]
    assert torch.equal(seen[1][:13], model.wte(input_ids)[torch.arange(9) < lengths[:, None]])

    # alpha / sqrt(L d), with 16 channels (2310.05914, section 2).
    for row, length in ((noise[:4], 4), (noise[4:], 9)):
        most = 3 / (length * 16) ** 0.5
        assert 0.8 * most < row.abs().max() <= most
        assert abs(row.mean()) < 0.3 * most
