"""A person's labels beside a judge's scores: agreement, and the corrected mean."""

import numpy as np
import pytest

from sft.scoring.labels import FEWEST, agreement, corrected_mean
from tests.scoring.simulate import COVERED, JUDGES, Biased, corrected


@pytest.mark.parametrize("judge", JUDGES[::2], ids=lambda judge: judge.name)
def test_the_interval_covers_the_mean_of_a_biased_judge(judge: Biased) -> None:
    # 200 draws of a coverage of 95% fall below 92% three times in a hundred; these are seeded.
    assert corrected(judge, 200, np.random.default_rng(0)) >= COVERED - 0.01


def test_a_good_judge_narrows_the_interval_and_a_blind_one_does_not_widen_it() -> None:
    rng = np.random.default_rng(0)
    labels = rng.uniform(20, 80, FEWEST)
    rest = rng.uniform(20, 80, 1000)
    alone = corrected_mean(labels, np.zeros(FEWEST), np.zeros(1000))
    helped = corrected_mean(labels, labels + 15, rest + 15)
    assert (alone.weight, round(alone.mean, 6)) == (0, round(float(labels.mean()), 6))
    assert helped.weight > 0.9
    assert helped.interval[1] - helped.interval[0] < (alone.interval[1] - alone.interval[0]) / 2
    assert helped.mean == pytest.approx(rest.mean(), abs=1.5)


def test_labels_without_spread_leave_doubt() -> None:
    found = corrected_mean(np.full(FEWEST, 100.0), np.full(FEWEST, 90.0), np.full(80, 90.0))
    assert found.mean == 100
    assert 85 < found.interval[0] < 92
    assert found.interval[1] == 100


def test_kappa_counts_right_and_wrong_beyond_chance() -> None:
    # 20 both right, 5 person only, 10 judge only, 15 both wrong: Cohen's 0.4.
    labels = [100.0] * 25 + [0.0] * 25
    scores = [80.0] * 20 + [10.0] * 5 + [60.0] * 10 + [49.0] * 15
    found = agreement(labels, scores)
    assert found is not None
    assert found.kappa == pytest.approx(0.4)
    assert found.interval is not None
    assert 0.05 < found.interval[0] < 0.4 < found.interval[1]
    same = agreement([100.0] * 5, [90.0] * 5)
    assert same is not None
    assert same.kappa is None
