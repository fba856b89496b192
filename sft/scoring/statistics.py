"""Uncertainty of a mean over records, and of a difference between two models on the same ones.

A mean of 0s and 1s gets Wilson's interval (Wilson, 1927), which is honest even if none or all of a
few records are 1. Any other mean gets a bootstrap interval (Efron and Tibshirani, 1993). Both are
scipy's.

A difference between two models gets a sign-flip permutation test (Good, 2005). Its interval holds
all differences that this test does not reject. So interval and test always agree. The unit that is
drawn is a record: two models' numbers on it stay together.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Numbers = NDArray[np.float64]
Interval = tuple[float, float]

# The level of every interval.
LEVEL = 0.95

# A difference is called visible if it is found with this chance.
POWER = 0.8

RESAMPLES = 9_999

# The draws of a bootstrap whose every draw costs a fit.
REDRAWS = 999

# How many numbers are drawn at a time, which limits the memory.
CELLS = 4_000_000

# The AUC that a judge's scores of right and wrong answers must reach.
RELIABLE = 0.8

TOO_FEW = (
    "fewer than 6 records can differ like this by chance, so their difference has no 95% interval"
)
NOISE = "the difference is within noise"


@dataclass(frozen=True)
class Difference:
    """The difference between two models on the same records.

    Attributes:
        difference: the mean of first minus second.
        interval: its 95% interval; None: there are too few records for one.
        p_value: how often chance makes as large a difference, if the two models' names are swapped
            at random on each record.
        visible: the smallest difference that is found with a power of 80% in these records; None
            for fewer than two.
        wins: the number of records on which the first model is better.
    """

    difference: float
    interval: Interval | None
    p_value: float
    visible: float | None
    wins: int
    ties: int
    losses: int

    @property
    def within_noise(self) -> bool:
        """Whether chance alone may explain the difference."""
        return self.p_value >= 1 - LEVEL


def interval(
    values: Sequence[float] | Numbers,
    weights: Sequence[float] | Numbers | None = None,
    shares: bool = False,
) -> Interval | None:
    """Return the 95% interval of a mean over records; None for fewer than two.

    Args:
        weights: of the records in the mean, such as their numbers of tokens.
        shares: whether the values lie between 0 and 1. Then a mean of 0 or of 1 is not certain,
            even if all values are equal.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if len(numbers) < 2:
        return None

    # Shares that are all 0 or 1.
    if shares and np.isin(numbers, (0, 1)).all():
        found = stats.binomtest(int(numbers.sum()), len(numbers)).proportion_ci(
            LEVEL, method="wilson"
        )
        return float(found.low), float(found.high)

    # Other values, equal or not.
    if (numbers == numbers[0]).all():
        return float(numbers[0]), float(numbers[0])
    return _bootstrap(numbers, _weights(weights, numbers))


def wilson(share: float, count: float, quantile: float) -> Interval:
    """Return Wilson's interval (1927) of a share of `count` independent answers.

    Args:
        count: need not be whole. It is smaller than the number of answers if these are alike.
        quantile: of the normal or of a t distribution.
    """
    square = quantile**2 / count
    centre = (share + square / 2) / (1 + square)
    half = quantile / (1 + square) * (share * (1 - share) / count + square / 4 / count) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def _weights(weights: Sequence[float] | Numbers | None, values: Numbers) -> Numbers:
    return np.ones_like(values) if weights is None else np.asarray(weights, dtype=np.float64)


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


def redraws(records: int) -> Numbers:
    """Return how often each record is drawn in each draw of a bootstrap, (draws, records)."""
    rng = np.random.default_rng(0)
    return rng.multinomial(records, np.full(records, 1 / records), REDRAWS).astype(np.float64)


def difference(
    first: Sequence[float],
    second: Sequence[float],
    weights: Sequence[float] | None = None,
    lower: bool = False,
) -> Difference | None:
    """Compare first minus second, record by record; None for no records.

    Args:
        weights: of the records in the mean, such as their numbers of tokens.
        lower: whether the lower number is the better one.
    """
    if not len(first):
        return None
    apart = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    weighing = _weights(weights, apart)
    better = -apart if lower else apart
    span, p_value = _sign_flip_test(apart, weighing)
    return Difference(
        difference=float((apart * weighing).sum() / weighing.sum()),
        interval=span,
        p_value=p_value,
        visible=_visible(apart, weighing),
        wins=int((better > 0).sum()),
        ties=int((better == 0).sum()),
        losses=int((better < 0).sum()),
    )


def _visible(apart: Numbers, weights: Numbers) -> float | None:
    """Return the smallest difference that is found with a power of 80%; None for too few records.

    It is the sum of two normal quantiles, times the standard error (Cohen, 1988). The standard
    error is that of a weighted mean.
    """
    count = len(apart)
    if count < 2:
        return None
    shares = weights / weights.sum()
    distance = (apart - (apart * shares).sum()) * shares
    error = float(np.sqrt((distance**2).sum() * count / (count - 1)))
    return error * float(stats.norm.ppf((1 + LEVEL) / 2) + stats.norm.ppf(POWER))


def visible_share(records: int, differing: float = 0.3) -> float:
    """Return the smallest difference between two shares that a number of records shows.

    It is found with a power of 80%.

    Args:
        differing: the share of records that only one of the two models answers rightly.
    """
    quantiles = float(stats.norm.ppf((1 + LEVEL) / 2) + stats.norm.ppf(POWER))
    return quantiles * math.sqrt(differing / records)


def visible_text(visible: dict[str, float]) -> str:
    """Say which differences the records could have shown.

    Args:
        visible: the smallest one of each metric, by the metric's label.
    """
    shown = ", ".join(f"{label} {value:.3g}" for label, value in visible.items())
    return f"smallest difference that these records show four times in five: {shown}"


def _sign_flip_test(apart: Numbers, weights: Numbers) -> tuple[Interval | None, float]:
    """Test the differences by flipping signs.

    Suppose the true difference is d, and take all differences from d. A flip counts against d if it
    gives as large a sum as was found: |kept - flipped| >= |kept + flipped|. That holds exactly if
    the two sums have different signs: d lies between the mean of the kept records and that of the
    flipped ones. The p-value of d is therefore the share of flips whose two means have d
    between them. It rises up to the difference found and falls from there. The interval ends where
    the p-value reaches 1 - `LEVEL`.

    Returns:
        The interval of the differences that a two-sided test at 1 - `LEVEL` does not reject, and
        the p-value of a difference of 0.
    """
    low, high = _means_of_flips(apart, weights)
    least = int(np.searchsorted(np.arange(1, len(low) + 1) / len(low), 1 - LEVEL))
    ends = np.array([np.sort(low)[least], np.sort(high)[-1 - least]])

    # What differs from 0 by rounding alone counts as 0, in the interval and in the p-value.
    rounding = 1e-12 * np.abs(apart).max()
    ends[np.abs(ends) <= rounding] = 0
    p_value = float(np.mean((low <= rounding) & (high >= -rounding)))
    return (float(ends[0]), float(ends[1])) if np.isfinite(ends).all() else None, p_value


def _means_of_flips(apart: Numbers, weights: Numbers) -> tuple[Numbers, Numbers]:
    """Return the lower and the higher of two means for each flip of some records' signs.

    They are the mean of the kept records and that of the flipped ones. A flip of all or none has
    one mean, and is unbounded.

    If there are at most `RESAMPLES` flips, all are taken. Otherwise that many are drawn at random,
    and the flip of none is added.
    """
    # (records, 3) and (flips, 3)
    values = np.stack([apart * weights, weights, np.ones_like(apart)], axis=1)
    flipped = np.concatenate([flips @ values for flips in _flips(len(values))])
    kept = values.sum(axis=0) - flipped
    bounded = (flipped[:, 2] > 0) & (kept[:, 2] > 0)

    low = np.full(len(flipped), -np.inf)
    high = np.full(len(flipped), np.inf)
    means = [sums[bounded, 0] / sums[bounded, 1] for sums in (flipped, kept)]
    low[bounded] = np.minimum(*means)
    high[bounded] = np.maximum(*means)
    return low, high


def _flips(records: int) -> Iterator[Numbers]:
    """Yield flips, a part at a time to limit the memory: 1 for a flipped record, else 0."""
    if 2**records <= RESAMPLES:
        yield (np.arange(2**records)[:, None] >> np.arange(records) & 1).astype(np.float64)
        return
    yield np.zeros((1, records))
    rng = np.random.default_rng(0)
    batch = max(1, CELLS // records)
    for start in range(0, RESAMPLES, batch):
        size = min(batch, RESAMPLES - start)
        yield rng.integers(0, 2, (size, records), np.uint8).astype(np.float64)


def verdict(found: Difference, first: str, second: str, lower: bool = False) -> str:
    """Say in words what the difference means between the models called `first` and `second`."""
    if found.within_noise:
        return NOISE
    better, worse = (first, second) if (found.difference < 0) == lower else (second, first)
    return f"{better} is better than {worse}"


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's correlation; None for fewer than three records, or if all are equal."""
    if len(first) < 3 or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    return float(stats.spearmanr(first, second).statistic)


def auc(higher: Sequence[float], lower: Sequence[float]) -> float | None:
    """Return the area under the ROC curve.

    It is the chance that one of `higher` exceeds one of `lower`, with ties counted half.
    """
    if not len(higher) or not len(lower):
        return None
    return float(stats.mannwhitneyu(higher, lower).statistic) / (len(higher) * len(lower))


def auc_interval(area: float, higher: int, lower: int) -> Interval:
    """Return the 95% interval of an AUC (Newcombe, 2006, method 5).

    It holds the areas from which the one found is not further than chance puts it. The variance of
    chance is Hanley and McNeil's (1982). Unlike a bootstrap's, the interval of an area of 1 has a
    length.

    Args:
        higher, lower: the number of values of each kind.
    """
    quantile = float(stats.norm.ppf((1 + LEVEL) / 2))
    rest = (higher + lower) / 2 - 1

    def beyond(true: float) -> float:
        spread = 1 + rest * ((1 - true) / (2 - true) + true / (1 + true))
        variance = true * (1 - true) * spread / (higher * lower)
        return abs(area - true) - quantile * math.sqrt(variance)

    # An area of 0 or 1 is a root itself, but not the one that is meant.
    inside = min(max(area, 1e-9), 1 - 1e-9)
    low = float(optimize.brentq(beyond, 0, inside)) if beyond(0) > 0 else 0.0
    high = float(optimize.brentq(beyond, inside, 1)) if beyond(1) > 0 else 1.0
    return low, high
