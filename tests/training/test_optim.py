"""AdamW over the right parameters, and the learning rate's schedule."""

from pathlib import Path

import pytest
import torch

from sft.checkpoint.folder import load_pretrained
from sft.config.schema import LoraConfig, OptimConfig
from sft.gpt2.lora import add_lora
from sft.training.optim import OPTIMIZERS, adamw, schedule


def test_matrices_decay_and_vectors_do_not(checkpoint: Path) -> None:
    model = load_pretrained(checkpoint).model
    decayed, plain = adamw(model, OptimConfig(weight_decay=0.3)).param_groups
    assert decayed["weight_decay"] == 0.3
    assert {p.dim() for p in decayed["params"]} == {2}
    assert plain["weight_decay"] == 0.0
    assert {p.dim() for p in plain["params"]} == {1}
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))


def test_frozen_parameters_are_not_optimized(checkpoint: Path) -> None:
    model = load_pretrained(checkpoint).model
    add_lora(model, LoraConfig())
    decayed, plain = adamw(model, OptimConfig()).param_groups
    assert len(decayed["params"]) == 2 * 2 * 4
    assert plain["params"] == []


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("constant", [0.5, 1, 1, 1, 1, 1]), ("cosine", [0.5, 1, 1, 0.8535534, 0.5, 0.1464466])],
)
def test_the_learning_rate_follows_its_schedule(kind: str, expected: list[float]) -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=2.0)
    course = schedule(optimizer, OptimConfig(schedule=kind, warmup_steps=2), total_steps=6)
    rates = []
    for _ in expected:
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        course.step()
    assert rates == pytest.approx([2 * factor for factor in expected])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_bytes_of_an_entry_are_those_that_its_state_takes(checkpoint: Path, name: str) -> None:
    model = load_pretrained(checkpoint).model
    optimizer = OPTIMIZERS[name].make(model, OptimConfig(), True)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    values = [value for state in optimizer.state.values() for value in state.values()]
    numbers = sum(parameter.numel() for parameter in model.parameters())
    held = sum(value.nbytes for value in values if value.dim())
    assert held == OPTIMIZERS[name].state_bytes * numbers
