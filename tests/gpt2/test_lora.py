"""An adapter starts at zero, leaves its base as it is, and adds what Hu et al. (2021) say."""

import pytest
import torch
from torch import nn

from sft.checkpoint.folder import load_pretrained
from sft.config.schema import LORA_TARGETS, LoraConfig
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
def test_a_new_adapter_changes_no_logit_and_a_trained_one_does(model, autocast):
    def logits() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return model.train()(IDS)

    expected = logits()
    add_lora(model, LoraConfig(dropout=0.5))
    assert torch.equal(logits(), expected)
    shake(model)
    assert not torch.equal(logits(), expected)


@torch.no_grad()
def test_a_layer_adds_alpha_over_rank_times_b_a():
    torch.manual_seed(0)
    linear = nn.Linear(6, 4)
    x = torch.randn(3, 6)
    layer = LoraLinear(linear, LoraConfig(rank=2, alpha=3.0), torch.Generator())
    nn.init.normal_(layer.lora_B)
    assert layer.lora_A.shape == (2, 6)
    assert layer.lora_B.shape == (4, 2)
    whole = linear.weight + 3 / 2 * layer.lora_B @ layer.lora_A
    torch.testing.assert_close(layer(x), x @ whole.T + linear.bias)


@torch.no_grad()
def test_dropout_falls_on_the_adapters_input_alone_and_only_in_training():
    torch.manual_seed(0)
    linear = nn.Linear(6, 4)
    x = torch.ones(1000, 6)
    layer = LoraLinear(linear, LoraConfig(rank=2, alpha=2.0, dropout=0.5), torch.Generator())
    nn.init.ones_(layer.lora_A)
    nn.init.ones_(layer.lora_B)

    # From 0 to 6 inputs stay, are doubled, and are summed by each of the two rows of A.
    added = layer(x) - linear(x)
    found = {round(value) for value in added.flatten().tolist()}
    assert found == {0, 4, 8, 12, 16, 20, 24}
    layer.eval()
    torch.testing.assert_close(layer(x) - linear(x), torch.full((1000, 4), 12.0))


@pytest.mark.parametrize("targets", [["c_attn"], ["c_proj"], ["c_fc"], list(LORA_TARGETS)])
def test_only_targets_get_adapters_and_only_adapters_are_trained(model, targets):
    names = list(model.state_dict())
    add_lora(model, LoraConfig(targets=targets))
    where = {
        "c_attn": ["attn.c_attn"],
        "c_proj": ["attn.c_proj", "mlp.c_proj"],
        "c_fc": ["mlp.c_fc"],
    }
    layers = [f"h.{i}.{layer}" for i in range(2) for target in targets for layer in where[target]]
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {f"{layer}.lora_{letter}" for layer in layers for letter in "AB"}
    assert [name for name in model.state_dict() if not is_adapter(name)] == names


def test_the_same_seed_draws_the_same_adapter(checkpoint):
    first, same, other = (load_pretrained(checkpoint).model for _ in range(3))
    for model, seed in ((first, 1), (same, 1), (other, 2)):
        add_lora(model, LoraConfig(), seed)
    A = "h.0.attn.c_attn.lora_A"
    assert torch.equal(first.get_parameter(A), same.get_parameter(A))
    assert not torch.equal(first.get_parameter(A), other.get_parameter(A))

    # kaiming_uniform with a = sqrt(5), of 16 inputs.
    bound = 16**-0.5
    assert 0.9 * bound < first.get_parameter(A).abs().max() <= bound


def test_decoding_goes_through_the_adapters(model):
    add_lora(model, LoraConfig())
    shake(model, 0.5)
    [answer] = generate(model, [[5, 6, 7]], max_new_tokens=8)
    ids = [5, 6, 7]
    for _ in range(8):
        ids.append(int(model.eval()(torch.tensor([ids]))[0, -1].argmax()))
    assert answer == ids[3:]


def test_frozen_matrices_in_bf16_give_the_bits_that_autocast_gives(checkpoint):
    """Autocast rounds them at every product; here they are rounded once."""
    outcomes = []
    for dtype in (torch.float32, torch.bfloat16):
        model = load_pretrained(checkpoint, linear_dtype=dtype).model
        assert model.h[0].attn.c_attn.weight.dtype == dtype
        others = {p.dtype for name, p in model.named_parameters() if "c_" not in name}
        assert others == {torch.float32}
        add_lora(model, LoraConfig())
        shake(model)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.token_losses(IDS[:, :-1], IDS[:, 1:]).sum()
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        outcomes.append([loss.detach(), *gradients])
    assert len(outcomes[0]) == 1 + 2 * 8
    assert all(map(torch.equal, *outcomes))


def test_compiled_layers_give_the_same_gradients(tokenizer):
    torch.manual_seed(0)
    n_vocab = tokenizer.n_vocab
    model = GPT(GPTConfig(n_layer=1, n_head=2, n_embd=16, vocab_size=n_vocab, n_positions=64))
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
