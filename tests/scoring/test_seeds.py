"""Statistics over seeds and records, against numbers computed by hand and sweeps of known truth."""

import numpy as np
import pytest
from scipy import stats

from sft.scoring.seeds import Clusters, GroupDifference, group_difference, group_mean, holm
from sft.scoring.statistics import Numbers, difference, visible_share, wilson
from tests.scoring.simulate import CLAIMED, COVERED, WORLDS, World, claimed, covered

BY_NAME = {world.name: world for world in WORLDS}


def table(seeds: int, records: int, seed: int = 0) -> Numbers:
    """Return values in which seeds and records both count."""
    rng = np.random.default_rng(seed)
    by_seed = rng.normal(0, 0.5, (seeds, 1))
    return by_seed + rng.normal(0, 1, records) + rng.normal(0, 1, (seeds, records))


@pytest.mark.parametrize("name", BY_NAME)
def test_intervals_of_200_sweeps_cover_the_truth(name: str) -> None:
    assert covered(BY_NAME[name], 200, np.random.default_rng(1)) >= COVERED


@pytest.mark.parametrize("name", BY_NAME)
def test_in_200_sweeps_few_differences_are_claimed_where_there_are_none(name: str) -> None:
    assert claimed(BY_NAME[name], 200, np.random.default_rng(2)) <= CLAIMED


def test_near_duplicates_taken_for_records_of_their_own_would_cover_too_little() -> None:
    """The clusters are needed: without them the same sweeps miss the truth."""

    class Unaware(World):
        def clusters(self) -> Clusters:
            return np.arange(self.number)

        def groups(self, rng: np.random.Generator, count: int) -> list[Numbers]:
            return BY_NAME["near-duplicates, five each"].groups(rng, count)

    unaware = Unaware("unaware", 0.2, 1.0, number=200)
    assert covered(unaware, 200, np.random.default_rng(1)) < 0.9


def test_the_variance_is_that_of_a_two_way_analysis() -> None:
    values = table(3, 20, seed=3)
    seeds = 20 * values.mean(axis=1).var(ddof=1)
    records = 3 * values.mean(axis=0).var(ddof=1)
    rest = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
    interaction = (rest**2).sum() / (2 * 19)
    assert interaction < min(seeds, records)
    variance = (seeds + records - interaction) / 60
    quantiles = stats.t.ppf(0.975, [2, 19])
    quantile = (quantiles[0] * seeds + quantiles[1] * records) / (seeds + records)

    found = group_mean(values)
    assert found.mean == pytest.approx(values.mean())
    assert found.spread == pytest.approx(values.mean(axis=1).std(ddof=1))
    half = quantile * variance**0.5
    assert found.interval == pytest.approx((values.mean() - half, values.mean() + half))


def test_one_seed_gives_an_interval_over_the_records_alone_and_one_record_over_the_seeds() -> None:
    values = table(1, 20)
    half = stats.t.ppf(0.975, 19) * stats.sem(values[0])
    found = group_mean(values)
    assert found.spread is None
    assert found.interval == pytest.approx((values.mean() - half, values.mean() + half))

    losses = table(5, 1)
    half = stats.t.ppf(0.975, 4) * stats.sem(losses[:, 0])
    assert group_mean(losses).interval == pytest.approx(
        (losses.mean() - half, losses.mean() + half)
    )
    assert group_mean(table(1, 1)).interval is None


def test_a_weighted_mean_counts_each_record_as_often_as_its_weight() -> None:
    values = np.array([[1.0, 2.0, 4.0], [2.0, 3.0, 3.0]])
    weights = np.array([1.0, 2.0, 1.0])
    assert group_mean(values, weights).mean == pytest.approx((9 + 11) / 8)


def test_records_of_one_cluster_count_as_one() -> None:
    """A record that is there five times says no more than once."""
    values = table(5, 12)
    once = group_mean(values)
    repeated = group_mean(np.repeat(values, 5, axis=1), clusters=np.repeat(np.arange(12), 5))
    assert repeated.interval == pytest.approx(once.interval)
    assert repeated.mean == pytest.approx(once.mean)


def test_shares_stay_between_0_and_1() -> None:
    perfect = group_mean(np.ones((5, 40)))
    assert perfect.interval == pytest.approx(wilson(1.0, 40, float(stats.t.ppf(0.975, 4))))
    nearly = np.ones((5, 40))
    nearly[0, :3] = 0
    low, high = group_mean(nearly).interval or (0, 0)
    assert 0.8 < low < nearly.mean() < high < 1


def test_a_difference_that_all_seeds_share_is_found_and_its_p_value_agrees() -> None:
    first = table(5, 60)
    second = first - 0.4 + 0.1 * table(5, 60, seed=1)
    found = group_difference(first, second, same_seeds=True)
    assert found.interval
    assert found.interval[0] > 0
    assert found.p_value < 0.05
    assert found.visible
    assert 0 < found.visible < 0.4

    # The same tables with seeds of their own: what the seeds share is noise now.
    unpaired = group_difference(first, second)
    assert unpaired.difference == pytest.approx(found.difference)
    assert unpaired.p_value > found.p_value


@pytest.mark.parametrize("same_seeds", [True, False])
def test_interval_and_p_value_agree_and_swapping_changes_the_sign_alone(same_seeds: bool) -> None:
    seen = set()
    for seed in range(60):
        first, second = table(4, 25, seed), table(4, 25, seed + 1000) + 0.6
        found = group_difference(first, second, same_seeds=same_seeds)
        swapped = group_difference(second, first, same_seeds=same_seeds)
        assert found.interval
        assert swapped.interval
        assert (found.interval[0] <= 0 <= found.interval[1]) == (found.p_value >= 0.05)
        assert swapped.p_value == pytest.approx(found.p_value)
        assert swapped.interval == pytest.approx((-found.interval[1], -found.interval[0]))
        seen.add(found.p_value < 0.05)
    assert seen == {True, False}


def test_five_records_that_differ_prove_nothing() -> None:
    first, second = np.zeros((5, 30)), np.zeros((5, 30))
    first[:, :5] = 1
    assert group_difference(first, second, same_seeds=True) == GroupDifference(
        pytest.approx(5 / 30), None, 2 / 2**5, None
    )
    first[:, 5] = 1
    found = group_difference(first, second, same_seeds=True)
    assert found.interval
    assert found.p_value >= 2 / 2**6


def test_a_group_compared_with_itself_does_not_differ() -> None:
    values = table(5, 30)
    assert group_difference(values, values, same_seeds=True) == GroupDifference(0, None, 1, None)


def test_holm_corrects_each_p_value_by_those_that_are_larger() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_110_records_of_which_30_percent_differ_show_15_points() -> None:
    assert visible_share(110) == pytest.approx(0.146, abs=0.001)
    first = [1.0] * 17 + [0.0] * 16 + [1.0] * 77
    second = [0.0] * 17 + [1.0] * 16 + [1.0] * 77
    found = difference(first, second)
    assert found
    assert found.visible == pytest.approx(visible_share(110), rel=0.01)


def test_a_visible_difference_is_found_four_times_in_five() -> None:
    """Records differ with the chance at which the true difference is the visible one."""
    rng = np.random.default_rng(0)
    apart = visible_share(200)
    chances = [0.7, 0.15 + apart / 2, 0.15 - apart / 2]
    found = 0
    for _ in range(100):
        values = rng.choice([0.0, 1.0, -1.0], 200, p=chances)
        found += abs(values.mean()) > 1.96 * values.std(ddof=1) / 200**0.5
    assert 68 <= found <= 92
