"""The win rate at equal lengths."""

import numpy as np
import pytest
from scipy import special

from sft.scoring.length import length_controlled


def test_wins_that_are_owed_to_length_are_taken_back() -> None:
    """Two equal models, of which one writes more, before a judge who likes that."""
    rng = np.random.default_rng(0)
    longer = rng.normal(100, 100, 2000)
    chance = special.expit(1.5 * np.tanh(longer / longer.std()))
    won = (rng.random(2000) < chance).astype(float).tolist()
    assert np.mean(won) > 0.65
    found = length_controlled(won, longer.tolist())
    assert found is not None
    assert found.rate == pytest.approx(0.5, abs=0.05)
    assert found.interval[0] < 0.5 < found.interval[1]


def test_where_length_decides_nothing_the_rate_is_the_plain_one() -> None:
    won = [1.0, 1.0, 1.0, 0.0] * 50
    found = length_controlled(won, [10.0, -10.0, 20.0, -20.0, -10.0, 10.0, -20.0, 20.0] * 25)
    assert found is not None
    assert found.rate == pytest.approx(0.75, abs=0.01)
    assert found.interval[0] < 0.75 < found.interval[1]


def test_a_model_that_wins_everything_has_a_finite_rate() -> None:
    found = length_controlled([1.0] * 40, [float(number - 20) for number in range(40)])
    assert found is not None
    assert 0.95 < found.rate < 1
    assert found.interval[0] > 0.5


def test_lengths_that_never_differ_say_nothing() -> None:
    assert length_controlled([1.0, 0.5, 0.0], [7.0, 7.0, 7.0]) is None
    assert length_controlled([1.0], [7.0]) is None
