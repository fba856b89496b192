"""The head with its four savings gives torch's losses and gradients."""

import pytest
import torch
import torch.nn.functional as F

from sft.gpt2 import fast
from sft.gpt2.model import GPT, GPTConfig, cross_entropies

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}


@pytest.fixture
def model() -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(n_layer=2, n_head=2, n_embd=16, vocab_size=50, n_positions=12))


def assert_near(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Compare with a tolerance that is a share of the largest expected value."""
    largest = expected.abs().max().item()
    assert (found - expected).abs().max().item() <= tolerance * largest


@pytest.mark.parametrize("precision", TOLERANCE)
def test_losses_and_gradients_are_torchs(model, precision):
    """Two batches are computed before either gradient, and a third one never has a gradient.

    Each of them needs buffers of its own.
    """
    generator = torch.Generator().manual_seed(3)
    ids, labels = torch.randint(50, (2, 3, 12), generator=generator)
    lengths = torch.tensor([12, 7, 9])
    labels[:, :5] = -100
    labels[torch.arange(12) >= lengths[:, None]] = -100

    def ours(ids: torch.Tensor) -> torch.Tensor:
        return model.token_losses(ids, labels, lengths)

    def torchs(ids: torch.Tensor) -> torch.Tensor:
        logits = model(ids).flatten(0, 1).float()
        losses = F.cross_entropy(logits, labels.flatten(), reduction="none")
        return losses[labels.flatten() >= 0]

    results = []
    for losses in (ours, torchs):
        model.zero_grad()
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            first, _, second = losses(ids), losses(ids.flip(1)), losses(ids.flip(0))
        weights = torch.linspace(0.1, 2, len(first))
        ((first * weights).sum() + second.sum()).backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        results.append([first.detach(), second.detach(), *gradients])
    for found, expected in zip(*results, strict=True):
        assert_near(found, expected, TOLERANCE[precision])


def test_both_uses_of_the_embedding_add_to_one_gradient():
    matrix = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([2, 0, 2])
    targets = torch.tensor([1, 5, 2])

    embeddings, head = fast.embed_tied(matrix, ids)
    losses, _ = fast.cross_entropies(embeddings.tanh(), head, targets, fast.BufferPool())
    losses.sum().backward()
    found = matrix.grad.clone()

    matrix.grad = None
    logits = F.linear(F.embedding(ids, matrix).tanh(), matrix)
    F.cross_entropy(logits, targets, reduction="sum").backward()
    torch.testing.assert_close(found, matrix.grad, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("rows", [1, 5, 1000])
def test_rows_converted_to_fp32_at_a_time_change_no_bit(model, rows, change_limits):
    ids = torch.randint(50, (3, 12))
    results = []
    for fp32_rows in (16, rows):
        change_limits(fp32_rows=fp32_rows)
        model.zero_grad()
        losses = model.token_losses(ids, ids)
        losses.sum().backward()
        results.append([losses.detach(), *(parameter.grad for parameter in model.parameters())])
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_words_multiplied_at_a_time_change_no_bit(model, precision, change_limits):
    ids = torch.randint(50, (3, 12))
    results = []
    for head_words in (0, 16, 24):
        change_limits(head_words=head_words)
        model.zero_grad()
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            losses = model.token_losses(ids, ids)
        losses.sum().backward()
        results.append([losses.detach(), *(parameter.grad for parameter in model.parameters())])
    whole, *sliced = results
    for found in sliced:
        assert all(map(torch.equal, found, whole))


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 5, 1000])
def test_losses_without_a_gradient_do_not_depend_on_the_rows_at_a_time(model, rows, change_limits):
    ids = torch.randint(50, (3, 12))
    expected = F.cross_entropy(model(ids).flatten(0, 1), ids.flatten(), reduction="none")
    change_limits(evaluated_rows=rows)
    torch.testing.assert_close(model.token_losses(ids, ids), expected)


def test_a_batch_without_targets_has_no_losses_and_no_gradient(model):
    ids = torch.randint(50, (2, 12))
    losses = model.token_losses(ids, torch.full((2, 12), -100))
    assert losses.shape == (0,)
    losses.sum().backward()
    assert all(not parameter.grad.any() for parameter in model.parameters())
    with torch.no_grad():
        assert model.token_losses(ids, torch.full((2, 12), -100)).shape == (0,)


def test_fp16_with_a_gradient_takes_the_plain_loss():
    x, head = torch.randn(4, 8), torch.randn(9, 8)
    assert fast.overwrites_logits(x, head)
    with torch.autocast("cpu", torch.float16):
        assert not fast.overwrites_logits(x, head)
    with torch.no_grad():
        assert not fast.overwrites_logits(x, head)


@pytest.mark.parametrize("learns", [False, True])
def test_cross_entropy_of_logits_that_are_written_out(learns):
    x = torch.eye(2)
    head = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    with torch.set_grad_enabled(learns):
        losses, hits = cross_entropies(x, head, torch.tensor([2, 0]), fast.BufferPool())
        _, misses = cross_entropies(x[:1], head, torch.tensor([1]), fast.BufferPool())
    # The first token has logits 1, 2, 3, and the second has 0, 0, 0.
    expected = torch.tensor([0.4076059, 1.0986123])
    torch.testing.assert_close(losses, expected)
    assert hits.tolist() == [True, True]
    assert misses.tolist() == [False]
