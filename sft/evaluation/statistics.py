"""How sure one can be of a mean over records, and of a difference between two models on the same records.

Means of 0s and 1s get Wilson's interval (Wilson, 1927), which is honest about none or all of few records too; all other
means a bootstrap interval (Efron and Tibshirani, 1993) and all differences a sign-flip permutation test (Good, 2005),
as scipy implements them. A record is the unit that is drawn: two models' numbers on it stay together.
"""

from collections.abc import Sequence
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
NOISE = "the difference is within noise"


@dataclass(frozen=True)
class Difference:
    """Of two models on the same records: the mean of first minus second, what it might be, and who won how often.

    `p_value`: how often chance alone, swapping the two models' names at random on each record, makes as large a
    difference.
    """

    difference: float
    interval: Interval | None  # None: of a single record
    p_value: float
    wins: int  # records on which the first model is better
    ties: int
    losses: int

    @property
    def within_noise(self) -> bool:
        return self.p_value >= 1 - LEVEL


def interval(
    values: Sequence[float] | Numbers, weights: Sequence[float] | Numbers | None = None, shares: bool = False
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
        found = stats.binomtest(int(numbers.sum()), len(numbers)).proportion_ci(LEVEL, method="wilson")
        return float(found.low), float(found.high)
    if (numbers == numbers[0]).all():
        return float(numbers[0]), float(numbers[0])
    return _bootstrap(numbers, np.ones_like(numbers) if weights is None else np.asarray(weights, dtype=np.float64))


def _bootstrap(values: Numbers, weights: Numbers) -> Interval:
    def mean(values: Numbers, weights: Numbers, axis: int) -> Numbers:
        return np.asarray((values * weights).sum(axis) / weights.sum(axis))

    found = stats.bootstrap(
        (values, weights),
        mean,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=_batch(values),
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def _batch(values: Numbers) -> int:
    return max(1, CELLS // len(values))


def difference(
    first: Sequence[float], second: Sequence[float], weights: Sequence[float] | None = None, lower: bool = False
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
    return Difference(
        difference=float((apart * weighing).sum() / weighing.sum()),
        interval=interval(apart, weighing),
        p_value=_p_value(apart * weighing),
        wins=int((better > 0).sum()),
        ties=int((better == 0).sum()),
        losses=int((better < 0).sum()),
    )


def _p_value(apart: Numbers) -> float:
    """Two-sided; exact where there are no more than `RESAMPLES` ways to flip the signs."""
    apart = apart[apart != 0]  # flipping 0 changes nothing
    if len(apart) < 2:
        return 1.0
    found = stats.permutation_test(
        (apart,),
        lambda values, axis: values.sum(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=_batch(apart),
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


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
