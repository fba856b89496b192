"""The statistics against numbers that were computed by hand or by brute force."""

import itertools

import numpy as np
import pytest
from scipy import stats

from sft.scoring.statistics import (
    LEVEL,
    NOISE,
    auc,
    auc_interval,
    difference,
    interval,
    rank_correlation,
    verdict,
)


def test_the_interval_of_a_share_is_wilsons_and_says_something_of_none_too() -> None:
    low, high = interval([0.0] * 162, shares=True) or (1, 0)
    z = 1.959964
    assert (low, high) == pytest.approx((0, z * z / (162 + z * z)), abs=1e-6)
    low, high = interval([1.0] * 5 + [0.0] * 5, shares=True) or (1, 0)
    half = z / (1 + z * z / 10) * (0.25 / 10 + z * z / 400) ** 0.5
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)


def test_the_interval_of_a_mean_covers_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    inside = 0
    for _ in range(100):
        low, high = interval(rng.normal(3.0, 1.0, size=60)) or (1, 0)
        inside += low <= 3.0 <= high
    assert 87 <= inside <= 100  # 95 wanted; fewer than 87 has a chance of one in a thousand


def test_a_weighted_interval_is_that_of_the_weighted_mean() -> None:
    values, weights = [1.0, 2.0, 3.0, 4.0] * 20, [1.0, 1.0, 1.0, 7.0] * 20
    low, high = interval(values, weights) or (1, 0)
    assert low < 3.4 < high
    assert low > np.mean(values)


def test_no_record_and_one_kind_of_record() -> None:
    assert interval([]) is None
    assert difference([], []) is None
    assert interval([0.3] * 4) == (0.3, 0.3)
    one = difference([0.0, 0.0, 1.0], [0.0, 0.0, 0.0])
    assert one
    assert one.p_value == 1
    alike = difference([0.5] * 6, [0.5] * 6)
    assert alike
    assert (alike.difference, alike.interval, alike.p_value) == (0, (0, 0), 1)
    assert (alike.wins, alike.ties, alike.losses) == (0, 6, 0)


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]])
def test_the_p_value_is_the_share_of_all_sign_flips(weights: list[float] | None) -> None:
    first, second = (
        [5.0, 3.0, 6.0, 2.0, 9.0, 4.0, 7.0, 7.0],
        [4.0, 1.0, 7.0, 2.0, 5.0, 3.5, 6.0, 3.0],
    )
    apart = (np.array(first) - second) * (weights or np.ones(8))
    flips = [
        abs((apart * signs).sum()) >= abs(apart.sum()) - 1e-9
        for signs in itertools.product((1, -1), repeat=8)
    ]
    found = difference(first, second, weights)
    assert found
    assert found.p_value == pytest.approx(np.mean(flips))
    assert found.difference == pytest.approx(apart.sum() / sum(weights or [1] * 8))
    assert found.interval[0] < found.difference < found.interval[1]
    assert (found.wins, found.ties, found.losses) == (6, 1, 1)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "step", [None, 0.1]
)  # differences in tenths: many are equal, or add up to 0
def test_the_interval_excludes_0_exactly_where_the_test_does(
    weighted: bool, step: float | None
) -> None:
    rng = np.random.default_rng(3)
    seen = set()
    for _ in range(200):
        records = int(rng.integers(6, 25))
        apart = (
            rng.normal(0.5, 1.0, records) if step is None else rng.integers(-2, 4, records) * step
        )
        found = difference(
            apart.tolist(),
            [0.0] * records,
            rng.integers(1, 9, records).tolist() if weighted else None,
        )
        assert found
        assert found.interval
        assert found.interval[0] <= found.difference <= found.interval[1]
        assert (found.interval[0] <= 0 <= found.interval[1]) == found.within_noise
        seen.add(found.within_noise)
    assert seen == {True, False}


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]])
def test_the_interval_holds_the_differences_that_all_sign_flips_do_not_reject(
    weights: list[float] | None,
) -> None:
    apart = np.array([1.0, 2.5, -1.0, 0.0, 4.0, 0.5, 1.0, 4.0])
    found = difference(apart.tolist(), [0.0] * 8, weights)
    assert found
    assert found.interval

    def p_value(true: float) -> float:
        shifted = (apart - true) * (weights or np.ones(8))
        flips = [
            abs((shifted * signs).sum()) >= abs(shifted.sum())
            for signs in itertools.product((1, -1), repeat=8)
        ]
        return float(np.mean(flips))

    low, high = found.interval
    for inside, outside in ((low + 1e-6, low - 1e-6), (high - 1e-6, high + 1e-6)):
        assert p_value(inside) >= 1 - LEVEL > p_value(outside)


def test_the_interval_of_a_difference_covers_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    spans = [difference(rng.normal(3.0, 1.0, size=8).tolist(), [0.0] * 8) for _ in range(200)]
    inside = sum(
        span.interval[0] <= 3.0 <= span.interval[1] for span in spans if span and span.interval
    )
    assert 180 <= inside <= 199  # 190 wanted; a bootstrap interval of eight records has about 175


def test_five_records_have_no_interval_and_six_have_one() -> None:
    """Of five, all better, 2 of the 32 flips are as extreme: p = 0.0625. Of six it is 2 of 64."""
    five, six = (
        difference([0.3, 0.2, 0.1, 0.7, 0.9, 0.4][:count], [0.0] * count) for count in (5, 6)
    )
    assert five
    assert six
    assert (five.interval, five.p_value, five.within_noise) == (None, 2 / 32, True)
    assert (six.interval and six.interval[0] > 0, six.p_value, six.within_noise) == (
        True,
        2 / 64,
        False,
    )


def test_where_lower_is_better_wins_are_the_lower_ones() -> None:
    found = difference([1.0, 2.0, 3.0], [2.0, 2.0, 5.0], lower=True)
    assert found
    assert (found.wins, found.ties, found.losses, found.difference) == (2, 1, 0, -1)


def test_what_is_said_of_a_difference() -> None:
    clear = difference([1.0] * 30, [0.0] * 28 + [1.0] * 2)
    noise = difference([1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0])
    assert clear
    assert noise
    assert verdict(clear, "tuned", "base") == "tuned is better than base"
    assert verdict(clear, "tuned", "base", lower=True) == "base is better than tuned"
    assert verdict(noise, "A", "B") == NOISE == "the difference is within noise"


def test_ten_thousand_records_stay_within_memory() -> None:
    values = np.random.default_rng(0).random(10_000)
    found = difference(values.tolist(), (values * 0.99).tolist())
    assert found
    assert found.p_value < 0.001


def test_correlation_and_auc() -> None:
    assert rank_correlation([1, 2, 3, 4], [10, 20, 25, 90]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is rank_correlation([1, 2], [2, 1]) is None
    assert auc([3, 4], [1, 2]) == 1
    assert auc([1, 2], [1, 2]) == 0.5
    assert auc([2, 5], [1, 3]) == 0.75
    assert auc([], [1.0]) is None


def test_the_interval_of_an_auc_covers_it() -> None:
    """20 right answers, and 40 wrong ones of the same records."""
    rng = np.random.default_rng(0)
    true = float(stats.norm.cdf(1 / 2**0.5))
    inside = 0
    for _ in range(200):
        right = rng.normal(1, 1, 20)
        wrong = rng.normal(0, 1, 40)
        low, high = auc_interval(auc(right, wrong) or 0, 20, 40)
        inside += low <= true <= high
    assert inside >= 186


def test_an_auc_at_an_end_is_not_certain() -> None:
    low, high = auc_interval(1, 20, 40)
    assert (0.85 < low < 0.95, high) == (True, 1)
    assert auc_interval(0, 20, 40) == pytest.approx((0, 1 - low))
    assert auc_interval(0.5, 24, 48)[0] < 0.5 < auc_interval(0.5, 24, 48)[1]
