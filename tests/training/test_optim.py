"""AdamW over the right parameters, and the learning rate's schedule."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sft.checkpoint.folder import load_pretrained
from sft.config.schema import LoraConfig, OptimConfig
from sft.gpt2.lora import add_lora
from sft.training.optim import adamw, beta2_of, schedule


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


def rates(config: OptimConfig, steps: int) -> list[float]:
    """Return the learning rate of each step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=config.lr)
    course = schedule(optimizer, config, steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        course.step()
    return found


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "linear"}, [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
        ({"schedule": "linear", "min_lr": 0.5, "warmup_steps": 5}, [0.2, 0.4, 0.6, 0.8, 1]),
        ({"schedule": "linear", "min_lr": 0.5, "warmup": 0.5}, [0.2, 0.4, 0.6, 0.8, 1]),
        ({"schedule": "wsd"}, [1] * 9 + [0.5]),
        ({"schedule": "wsd", "min_lr": 0.2, "warmup": 0.2}, [0.5, 1] + [1] * 7 + [0.6]),
        ({"schedule": "constant", "warmup": 0.1}, [1] * 10),
    ],
)
def test_each_schedule_falls_to_its_least_rate(settings: Any, expected: list[float]) -> None:
    if len(expected) == 5:
        expected = [*expected, 1, 0.9, 0.8, 0.7, 0.6]
    assert rates(OptimConfig(lr=1.0, **settings), 10) == pytest.approx(expected)


def test_cosine_ends_at_its_least_rate() -> None:
    plain = rates(OptimConfig(lr=1.0, schedule="cosine"), 10)
    found = rates(OptimConfig(lr=1.0, schedule="cosine", min_lr=0.25), 10)
    assert found == pytest.approx([0.25 + 0.75 * rate for rate in plain])


def test_a_decay_that_is_longer_than_the_run_after_the_warm_up_begins_there() -> None:
    found = rates(OptimConfig(lr=1.0, schedule="wsd", warmup=0.9), 10)
    assert found[-1] == 1


def test_a_half_life_in_tokens_gives_the_decay_rate() -> None:
    assert beta2_of(1000, 1000) == 0.5
    assert beta2_of(4000, 1000) ** 4 == pytest.approx(0.5)

    # Twice the batch has the square of the rate (2507.07101, equation 1).
    assert beta2_of(4000, 2000) == pytest.approx(beta2_of(4000, 1000) ** 2)
