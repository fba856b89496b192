"""The average of the weights follows its formula, and what is kept is the better of the two."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from sft.atomic import read_numbers
from sft.config.schema import TrainConfig
from sft.training.average import Average
from tests.training.test_run import validation_loss


def test_the_average_follows_the_formula_and_gives_the_weights_back() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(2.0)
    average = Average(model, decay=0.75)
    with average.in_place():
        assert model.weight.item() == 2.0

    for value in (6.0, 4.0):
        with torch.no_grad():
            model.weight.fill_(value)
        average.update()

    # ema: 2, then 0.75 * 2 + 0.25 * 6 = 3, then 0.75 * 3 + 0.25 * 4 = 3.25.
    with average.in_place():
        assert model.weight.item() == pytest.approx(12**-0.2 * (4 - 2) + 3.25)
    assert model.weight.item() == 4.0


def test_a_model_gets_its_weights_back_after_an_error() -> None:
    model = nn.Linear(3, 2)
    average = Average(model, decay=0.5)
    with torch.no_grad():
        model.weight.add_(1)
    average.update()
    before = model.weight.clone()

    def fail() -> None:
        with average.in_place():
            assert not torch.equal(model.weight, before)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize(("lr", "averaged_wins"), [(1e-3, True), (5e-2, False)])
def test_the_better_of_plain_and_averaged_weights_is_kept(
    config: Callable[..., TrainConfig],
    run: Callable[..., Path],
    lr: float,
    averaged_wins: bool,
) -> None:
    settings = config(epochs=1, optim__lr=lr, optim__ema=0.5, eval__every=0, logger="none")
    folder = run(settings)
    last = read_numbers(folder / "metrics.csv")[-1]
    assert (last["val/ema_loss"] < last["val/full_loss"]) == averaged_wins
    expected = last["val/ema_loss" if averaged_wins else "val/full_loss"]
    assert validation_loss(folder, settings) == pytest.approx(expected, abs=1e-5)
