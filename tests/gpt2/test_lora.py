"""An adapter begins as nothing, leaves its base as it is, and adds what Hu et al. (2021) say."""

import pytest
import torch
from torch import nn

from sft.config import LORA_TARGETS, LoraConfig
from sft.gpt2.checkpoint import load_pretrained
from sft.gpt2.generate import generate
from sft.gpt2.lora import LoraLinear, add_lora, is_adapter
from sft.gpt2.model import GPT, GPTConfig
from tests.gpt2.conftest import shake

IDS = torch.arange(40).view(2, 20)


@pytest.fixture
def model(checkpoint) -> GPT:
    return load_pretrained(checkpoint).model


@torch.no_grad()
@pytest.mark.parametrize("autocast", [False, True])
def test_before_training_the_logits_are_the_bases(model, autocast):
    def logits() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return model.train()(IDS)

    expected = logits()
    add_lora(model, LoraConfig(dropout=0.5))
    assert torch.equal(logits(), expected)
    shake(model)
    assert not torch.equal(logits(), expected)


@torch.no_grad()
def test_what_a_layer_computes():
    torch.manual_seed(0)
    linear, x = nn.Linear(6, 4), torch.randn(3, 6)
    layer = LoraLinear(linear, LoraConfig(rank=2, alpha=3.0), torch.Generator())
    nn.init.normal_(layer.lora_B)
    assert (layer.lora_A.shape, layer.lora_B.shape) == ((2, 6), (4, 2))
    whole = linear.weight + 3 / 2 * layer.lora_B @ layer.lora_A
    torch.testing.assert_close(layer(x), x @ whole.T + linear.bias)


@torch.no_grad()
def test_dropout_is_of_the_adapter_alone_and_of_training():
    torch.manual_seed(0)
    linear, x = nn.Linear(6, 4), torch.ones(1000, 6)
    layer = LoraLinear(linear, LoraConfig(rank=2, alpha=2.0, dropout=0.5), torch.Generator())
    nn.init.ones_(layer.lora_A), nn.init.ones_(layer.lora_B)
    added = layer(x) - linear(x)  # 0 to 6 inputs stay, doubled, and are summed by each of two ranks
    found = {round(value) for value in added.flatten().tolist()}
    assert found == {0, 4, 8, 12, 16, 20, 24}
    torch.testing.assert_close(layer.eval()(x) - linear(x), torch.full((1000, 4), 12.0))


@pytest.mark.parametrize("targets", [["c_attn"], ["c_proj"], ["c_fc"], list(LORA_TARGETS)])
def test_the_targets_alone_are_adapted_and_adapters_alone_are_trained(model, targets):
    names = list(model.state_dict())
    add_lora(model, LoraConfig(targets=targets))
    where = {"c_attn": ["attn.c_attn"], "c_proj": ["attn.c_proj", "mlp.c_proj"], "c_fc": ["mlp.c_fc"]}
    layers = [f"h.{i}.{layer}" for i in range(2) for target in targets for layer in where[target]]
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {f"{layer}.lora_{letter}" for layer in layers for letter in "AB"}
    assert [name for name in model.state_dict() if not is_adapter(name)] == names


def test_the_seed_draws_the_adapter(checkpoint):
    first, same, other = (load_pretrained(checkpoint).model for _ in range(3))
    for model, seed in ((first, 1), (same, 1), (other, 2)):
        add_lora(model, LoraConfig(), seed)
    A = "h.0.attn.c_attn.lora_A"
    assert torch.equal(first.get_parameter(A), same.get_parameter(A))
    assert not torch.equal(first.get_parameter(A), other.get_parameter(A))
    bound = 16**-0.5  # kaiming_uniform(a = sqrt 5) of 16 inputs
    assert 0.9 * bound < first.get_parameter(A).abs().max() <= bound


def test_answers_come_through_the_same_layers(model):
    add_lora(model, LoraConfig())
    shake(model, 0.5)
    [answer] = generate(model, [[5, 6, 7]], max_new_tokens=8)
    ids = [5, 6, 7]
    for _ in range(8):
        ids.append(int(model.eval()(torch.tensor([ids]))[0, -1].argmax()))
    assert answer == ids[3:]


def test_matrices_kept_in_bf16_change_nothing_under_autocast(checkpoint):
    """What autocast would round at every product is rounded once: loss and gradients are the same, bit for bit."""
    outcomes = []
    for dtype in (torch.float32, torch.bfloat16):
        model = load_pretrained(checkpoint, linear_dtype=dtype).model
        assert model.h[0].attn.c_attn.weight.dtype == dtype
        assert {p.dtype for name, p in model.named_parameters() if "c_" not in name} == {torch.float32}
        add_lora(model, LoraConfig())
        shake(model)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.token_losses(IDS[:, :-1], IDS[:, 1:]).sum()
        loss.backward()
        outcomes.append([loss.detach()] + [p.grad for p in model.parameters() if p.grad is not None])
    assert len(outcomes[0]) == 1 + 2 * 8
    assert all(torch.equal(one, other) for one, other in zip(*outcomes, strict=True))


def test_compiled_layers_compute_the_same(tokenizer):
    torch.manual_seed(0)
    model = GPT(GPTConfig(n_layer=1, n_head=2, n_embd=16, vocab_size=tokenizer.n_vocab, n_positions=64))
    add_lora(model, LoraConfig())
    shake(model)
    gradients = []
    for compiled in (False, True):
        if compiled:
            model.compile_layers()
        model.zero_grad()
        model(IDS).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == 8
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
