"""The weight of the prompt's tokens: 0 is the mask, and between, no division changes the loss."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sft.atomic import read_numbers
from sft.config.schema import TrainConfig

Config = Callable[..., TrainConfig]
Run = Callable[..., Path]


@pytest.fixture
def losses(config: Config, run: Run) -> Callable[..., dict[str, list[float]]]:
    """Train for three steps, and return the columns of the metrics."""

    def train(name: str, **changes: Any) -> dict[str, list[float]]:
        common = {"max_steps": 3, "eval__every": 0, "logger": "none", "optim__lr": 1e-2}
        rows = read_numbers(run(config(**common | changes), name) / "metrics.csv")
        keys = ("train/loss", "train/answer_loss")
        found = {key: [row[key] for row in rows] for key in keys}
        return found | {"val": [rows[-1]["val/full_loss"], rows[-1]["val/full_answer_loss"]]}

    return train


def test_a_weight_of_zero_is_the_mask_by_another_name(losses: Any) -> None:
    masked = losses("masked", data__mask_prompt=True)
    assert losses("zero", data__prompt_weight=0.0) == masked
    assert masked["train/loss"] == masked["train/answer_loss"]


def test_the_loss_is_weighted_over_the_whole_step(losses: Any) -> None:
    masked = losses("masked", data__mask_prompt=True)
    plain = losses("plain")
    whole = losses("whole", batch_size=8, data__prompt_weight=0.25)
    parts = losses("parts", batch_size=2, accumulate=4, data__prompt_weight=0.25)
    for key in ("train/loss", "train/answer_loss", "val"):
        assert parts[key] == pytest.approx(whole[key], abs=1e-4), key

    # Before the first step, the weights change what is averaged and not the answers' loss.
    assert plain["train/answer_loss"][0] == pytest.approx(masked["train/loss"][0], abs=1e-5)
    assert plain["train/loss"][0] != plain["train/answer_loss"][0]
