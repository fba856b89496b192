"""How sure one can be of a mean over records, and of a difference between two models on the same records.

Means of 0s and 1s get Wilson's interval (Wilson, 1927), which is honest about none or all of few records too; all other
means a bootstrap interval (Efron and Tibshirani, 1993), as scipy implements them. A difference between two models gets
a sign-flip permutation test (Good, 2005), and as its interval all differences that this test does not reject: interval
and test always agree. A record is the unit that is drawn: two models' numbers on it stay together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Numbers = NDArray[np.float64]
Interval = tuple[float, float]

LEVEL = 0.95  # of every interval
RESAMPLES = 9_999
CELLS = 4_000_000  # drawn at a time, which bounds the memory
RELIABLE = 0.8  # the AUC that a judge's scores of right and wrong answers must reach
TOO_FEW = (
    "fewer than 6 records can differ like this by chance, so their difference has no 95% interval"
)
NOISE = "the difference is within noise"


@dataclass(frozen=True)
class Difference:
    """Of two models on the same records: the mean of first minus second, what it might be, and who won how often.

    `p_value`: how often chance alone, swapping the two models' names at random on each record, makes as large a
    difference.
    """

    difference: float
    interval: Interval | None  # None: there are too few records for one
    p_value: float
    wins: int  # records on which the first model is better
    ties: int
    losses: int

    @property
    def within_noise(self) -> bool:
        return self.p_value >= 1 - LEVEL


def interval(
    values: Sequence[float] | Numbers,
    weights: Sequence[float] | Numbers | None = None,
    shares: bool = False,
) -> Interval | None:
    """The 95% interval of a mean over records; None for fewer than two.

    Args:
        weights: of the records in the mean, such as their numbers of tokens.
        shares: the values lie between 0 and 1, so that a mean of 0 or of 1 is not certain even if all are alike.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if len(numbers) < 2:
        return None
    if shares and np.isin(numbers, (0, 1)).all():
        found = stats.binomtest(int(numbers.sum()), len(numbers)).proportion_ci(
            LEVEL, method="wilson"
        )
        return float(found.low), float(found.high)
    if (numbers == numbers[0]).all():
        return float(numbers[0]), float(numbers[0])
    return _bootstrap(
        numbers, np.ones_like(numbers) if weights is None else np.asarray(weights, dtype=np.float64)
    )


def _bootstrap(values: Numbers, weights: Numbers) -> Interval:
    def mean(values: Numbers, weights: Numbers, axis: int) -> Numbers:
        return np.asarray((values * weights).sum(axis) / weights.sum(axis))

    found = stats.bootstrap(
        (values, weights),
        mean,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, CELLS // len(values)),
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def difference(
    first: Sequence[float],
    second: Sequence[float],
    weights: Sequence[float] | None = None,
    lower: bool = False,
) -> Difference | None:
    """First minus second, record by record; None for no records.

    Args:
        weights: of the records in the mean, such as their numbers of tokens.
        lower: the lower number is the better one.
    """
    if not len(first):
        return None
    apart = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    weighing = np.ones_like(apart) if weights is None else np.asarray(weights, dtype=np.float64)
    better = -apart if lower else apart
    span, p_value = _sign_flip_test(apart, weighing)
    return Difference(
        difference=float((apart * weighing).sum() / weighing.sum()),
        interval=span,
        p_value=p_value,
        wins=int((better > 0).sum()),
        ties=int((better == 0).sum()),
        losses=int((better < 0).sum()),
    )


def _sign_flip_test(apart: Numbers, weights: Numbers) -> tuple[Interval | None, float]:
    """The differences that a two-sided test at 1 - `LEVEL` does not reject, and the p-value of a difference of 0.

    Suppose the true difference were d. A flip then makes as large a difference from d as was found exactly if d lies
    between the mean of the records kept and the mean of those flipped, because |kept - flipped| >= |kept + flipped|
    says that the two sums have different signs. So d's p-value is the share of flips whose two means have d between
    them. It grows up to the difference found and falls from there, and the interval ends where it reaches 1 - `LEVEL`.
    """
    low, high = _means_of_flips(apart, weights)
    least = int(np.searchsorted(np.arange(1, len(low) + 1) / len(low), 1 - LEVEL))
    ends = np.array([np.sort(low)[least], np.sort(high)[-1 - least]])

    # What is 0 but for rounding is taken for 0, here and there alike.
    rounding = 1e-12 * np.abs(apart).max()
    ends[np.abs(ends) <= rounding] = 0
    p_value = float(np.mean((low <= rounding) & (high >= -rounding)))
    return (float(ends[0]), float(ends[1])) if np.isfinite(ends).all() else None, p_value


def _means_of_flips(apart: Numbers, weights: Numbers) -> tuple[Numbers, Numbers]:
    """For each flip of some records' signs the lower and the higher of two means: that of the records kept and that of
    those flipped. A flip of all or none has one mean, and nothing bounds it.

    All flips are taken where they are no more than `RESAMPLES`, else so many random ones and the flip of none.
    """
    values = np.stack([apart * weights, weights, np.ones_like(apart)], axis=1)  # (records, 3)
    flipped = np.concatenate([flips @ values for flips in _flips(len(values))])  # (flips, 3)
    kept = values.sum(axis=0) - flipped
    bounded = (flipped[:, 2] > 0) & (kept[:, 2] > 0)

    low = np.full(len(flipped), -np.inf)
    high = np.full(len(flipped), np.inf)
    means = [sums[bounded, 0] / sums[bounded, 1] for sums in (flipped, kept)]
    low[bounded] = np.minimum(*means)
    high[bounded] = np.maximum(*means)
    return low, high


def _flips(records: int) -> Iterator[Numbers]:
    """Which records' signs are flipped, 1 or 0, a part of the flips at a time, which bounds the memory."""
    if 2**records <= RESAMPLES:
        yield (np.arange(2**records)[:, None] >> np.arange(records) & 1).astype(np.float64)
        return
    yield np.zeros((1, records))
    rng, batch = np.random.default_rng(0), max(1, CELLS // records)
    for start in range(0, RESAMPLES, batch):
        size = min(batch, RESAMPLES - start)
        yield rng.integers(0, 2, (size, records), np.uint8).astype(np.float64)


def verdict(found: Difference, first: str, second: str, lower: bool = False) -> str:
    """What a difference, of the model called `first` minus the one called `second`, comes to in words."""
    if found.within_noise:
        return NOISE
    better, worse = (first, second) if (found.difference < 0) == lower else (second, first)
    return f"{better} is better than {worse}"


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's; None where there is none: fewer than three records, or all alike."""
    if len(first) < 3 or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    return float(stats.spearmanr(first, second).statistic)


def auc(higher: Sequence[float], lower: Sequence[float]) -> float | None:
    """The chance that one of `higher` exceeds one of `lower`, ties counted half (the area under the ROC curve)."""
    if not len(higher) or not len(lower):
        return None
    return float(stats.mannwhitneyu(higher, lower).statistic) / (len(higher) * len(lower))
