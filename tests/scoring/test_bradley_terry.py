"""Strengths of models, beside closed forms and beside a truth that is known."""

from math import log

import numpy as np
import pytest

from sft.scoring.bradley_terry import ADDED, POINTS, ratings
from sft.scoring.statistics import Numbers
from tests.scoring.simulate import COVERED_OF_POLLS, POLLS, polled

LOGS = np.array([0.0, 0.5, 1.2])


def table(*counts: tuple[int, int, int]) -> tuple[Numbers, Numbers]:
    """Return wins and ties of two models: of each record the wins, ties and losses of the first."""
    wins = np.zeros((len(counts), 2, 2))
    ties = np.zeros_like(wins)
    for record, (won, tied, lost) in enumerate(counts):
        wins[record, 0, 1], wins[record, 1, 0], ties[record, 0, 1] = won, lost, tied
    return wins, ties


def expected(records: int, ties_are: float, votes: int) -> tuple[Numbers, Numbers]:
    """Return the counts that the strengths of `LOGS` give on average, on each record."""
    wins = np.zeros((records, 3, 3))
    ties = np.zeros_like(wins)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        weights = np.exp([LOGS[i], LOGS[j], log(ties_are) + (LOGS[i] + LOGS[j]) / 2])
        wins[:, i, j], wins[:, j, i], ties[:, i, j] = votes * weights / weights.sum()
    return wins, ties


@pytest.mark.parametrize("tied", [0, 5])
def test_two_models_have_the_log_odds_of_their_wins(tied: int) -> None:
    """With two models, Davidson's strengths are the ratio of the wins, whatever the ties."""
    found = ratings(["a", "b"], *table((12, tied, 3)))
    assert found
    apart = found[0].points - found[1].points
    assert apart == pytest.approx(POINTS * log((12 + ADDED) / (3 + ADDED)), rel=1e-6)
    assert found[0].interval is None


@pytest.mark.parametrize("ties_are", [0.3, 2.0])
def test_known_strengths_are_found_again_whatever_the_ties(ties_are: float) -> None:
    found = ratings(["a", "b", "c"], *expected(50, ties_are, votes=100))
    assert found
    truth = POINTS * (LOGS - LOGS.mean())
    assert [one.points for one in found] == pytest.approx(truth, abs=0.2)
    assert [one.rank for one in found] == [3, 2, 1]


def test_a_model_that_never_won_has_a_finite_strength() -> None:
    found = ratings(["a", "b"], *table(*[(1, 0, 0)] * 10))
    assert found
    assert found[1].interval
    assert np.isfinite([found[1].points, *found[1].interval]).all()
    assert [one.rank for one in found] == [1, 2]


def test_ties_alone_make_models_equal() -> None:
    found = ratings(["a", "b"], *table(*[(0, 1, 0)] * 10))
    assert found
    assert [one.points for one in found] == pytest.approx([0, 0], abs=1e-3)
    assert [one.rank for one in found] == [1, 1]


def test_models_without_a_common_comparison_are_not_rated() -> None:
    wins = np.zeros((8, 4, 4))
    wins[:, 0, 1] = wins[:, 2, 3] = 1
    assert ratings(list("abcd"), wins, np.zeros_like(wins)) is None
    wins[0, 1, 2] = 1
    assert ratings(list("abcd"), wins, np.zeros_like(wins))


def test_repeated_votes_on_a_record_make_no_interval_shorter() -> None:
    wins, ties = table(*[(1, 0, 0)] * 8, *[(0, 0, 1)] * 6)
    once = ratings(["a", "b"], wins, ties)
    often = ratings(["a", "b"], 5 * wins, ties)
    assert once
    assert often
    lengths = [found[0].interval[1] - found[0].interval[0] for found in (once, often)]  # type: ignore[index]
    assert lengths[1] >= lengths[0]


def test_intervals_cover_known_strengths() -> None:
    """`make simulate` makes 2,000 polls of each kind."""
    covered, _ = polled(POLLS[0], 20, np.random.default_rng(0))
    assert covered > COVERED_OF_POLLS - 0.06
