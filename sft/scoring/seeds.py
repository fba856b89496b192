"""Uncertainty of a mean over seeds and records, and of a difference between groups of runs.

A group is several runs that differ in their seed alone. Its table has a row for each seed and a
column for each record. Both were drawn: another seed would give another model, and other records
another test. A plain bootstrap over five seeds gives intervals that are too short.

The variance of the mean is estimated by a two-way analysis of variance with random seeds, random
records and their interaction (Searle, Casella and McCulloch, 1992, chapter 4):

    MS(seeds) / SR + MS(records) / SR - MS(interaction) / SR

The interaction stands in both of the first two terms, so it is subtracted once. No part may become
negative. Without the subtraction it is the variance of the pigeonhole bootstrap (Owen, 2007), whose
intervals are too long where chance plays a part in each answer.

The two terms have different degrees of freedom. The t quantile is the mean of both t quantiles,
weighted by the terms (Cochran, 1964). Satterthwaite's degrees of freedom gave shorter intervals,
which covered 92.5% of the means in the worst case. `make simulate` measures the coverage.

Records that resemble each other are not independent, so they form a cluster, which is drawn as one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from sft.scoring.statistics import LEVEL, POWER, Interval, Numbers, wilson

Clusters = NDArray[np.int64]

# With fewer clusters that differ, no test of their signs rejects at 1 - LEVEL: 2 / 2^5 = 0.0625.
FEWEST = 6


@dataclass(frozen=True)
class GroupMean:
    """The mean of a group of runs.

    Attributes:
        interval: its 95% interval, over seeds and records; over the records alone if there is one
            seed. None: there is one of each.
        spread: the standard deviation of the seeds' means; None for one seed.
    """

    mean: float
    interval: Interval | None
    spread: float | None


@dataclass(frozen=True)
class GroupDifference:
    """The difference between the means of two groups, first minus second.

    Attributes:
        interval: its 95% interval; None: there is too little to draw from.
        p_value: of no difference, two-sided.
        visible: the smallest difference that is found with a power of 80%, in these records and
            seeds; None without an interval.
    """

    difference: float
    interval: Interval | None
    p_value: float
    visible: float | None


@dataclass(frozen=True)
class Part:
    """A part of a variance, with its degrees of freedom."""

    variance: float
    freedom: int


def group_mean(
    values: Numbers, weights: Numbers | None = None, clusters: Clusters | None = None
) -> GroupMean:
    """Return the mean of a group.

    Values that are all 0 or 1 get Wilson's interval. Its number of answers is the number of
    independent ones that would be as uncertain (Korn and Graubard, 1998).

    Args:
        values: (seeds, records)
        weights: (records,), such as their numbers of tokens.
        clusters: (records,) the number of each record's cluster.
    """
    mean, table = _cluster_table(values, weights, clusters)
    seeds = (values * _shares(values, weights)).sum(axis=1)
    spread = float(seeds.std(ddof=1)) if len(seeds) > 1 else None
    variance, parts = _variance([(1, table)])
    if not parts:
        return GroupMean(mean, None, spread)

    quantile = _quantile(parts, 1 - (1 - LEVEL) / 2)
    if np.isin(values, (0, 1)).all():
        count = mean * (1 - mean) / variance if variance else table.shape[1]
        return GroupMean(mean, wilson(mean, count, quantile), spread)
    half = quantile * variance**0.5
    return GroupMean(mean, (mean - half, mean + half), spread)


def group_difference(
    first: Numbers,
    second: Numbers,
    weights: Numbers | None = None,
    clusters: Clusters | None = None,
    same_seeds: bool = False,
    comparisons: int = 1,
) -> GroupDifference:
    """Compare two groups on the same records.

    Args:
        first, second: (seeds, records), which may differ in their number of seeds.
        same_seeds: whether the rows of both have the same seeds, in the same order. Then they are
            paired, since a seed may be a good one for both groups.
        comparisons: how many are made together, of which the power takes account.
    """
    if same_seeds:
        mean, table = _cluster_table(first - second, weights, clusters)
        tables = [(1, table)]
    else:
        means = [_cluster_table(values, weights, clusters) for values in (first, second)]
        mean = means[0][0] - means[1][0]
        tables = [(1, means[0][1]), (-1, means[1][1])]
    variance, parts = _variance(tables)
    error = variance**0.5

    # A sign test could not reject, so neither may this one.
    differing = _differing_clusters(first, second, weights, clusters)
    few = first.shape[1] > 1 and differing < FEWEST
    if not parts or few:
        p_value = 2.0 ** (1 - min(differing, FEWEST - 1)) if mean else 1.0
        return GroupDifference(mean, None, p_value, None)

    half = _quantile(parts, 1 - (1 - LEVEL) / 2) * error
    detectable = _quantile(parts, 1 - (1 - LEVEL) / 2 / comparisons) + _quantile(parts, POWER)
    p_value = _p_value(parts, abs(mean) / error) if error else float(mean == 0)
    if first.shape[1] > 1:
        p_value = max(p_value, 2.0 ** (1 - differing))
    return GroupDifference(mean, (mean - half, mean + half), p_value, detectable * error)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values that are corrected for their number (Holm, 1979), in the same order."""
    order = np.argsort(p_values)
    corrected = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def _shares(values: Numbers, weights: Numbers | None) -> Numbers:
    """Return each record's share in the mean, (records,)."""
    if weights is None:
        weights = np.ones(values.shape[1])
    shares: Numbers = weights / weights.sum()
    return shares


def _cluster_table(
    values: Numbers, weights: Numbers | None, clusters: Clusters | None
) -> tuple[float, Numbers]:
    """Return the mean, and what each seed and cluster adds to it.

    Clusters differ in size, so the mean is a ratio of sums. The table holds its linear form: the
    weighted distance from the mean, times the number of clusters (Cochran, 1977, chapter 6).

    Returns:
        The mean, and a table (seeds, clusters) whose mean is 0.
    """
    shares = _shares(values, weights)
    mean = float((values * shares).sum() / len(values))
    distance = (values - mean) * shares
    if clusters is None:
        return mean, distance * values.shape[1]
    found, place = np.unique(clusters, return_inverse=True)
    table = np.zeros((len(values), len(found)))
    for seed, row in enumerate(distance):
        table[seed] = np.bincount(place, row, len(found))
    return mean, table * len(found)


def _variance(tables: Sequence[tuple[int, Numbers]]) -> tuple[float, list[Part]]:
    """Return the variance of the mean, or of the difference of two, and its parts.

    A side with one seed says nothing about seeds. Then the variance is that over records alone.

    Args:
        tables: each group's, with the sign of its mean.
    """
    count = tables[0][1].shape[1]
    parts = []
    interaction = 0.0
    if all(len(table) > 1 for _, table in tables):
        for _, table in tables:
            seeds = len(table)
            of_seeds = table.mean(axis=1, keepdims=True)
            parts.append(Part(float(of_seeds.var(ddof=1)) / seeds, seeds - 1))
            if count > 1:
                rest = table - of_seeds - table.mean(axis=0) + table.mean()
                interaction += float((rest**2).sum()) / (seeds - 1) / (count - 1) / table.size

    if count > 1:
        of_records = sum(sign * table.mean(axis=0) for sign, table in tables)
        parts.append(Part(float(np.var(of_records, ddof=1)) / count, count - 1))
    if count == 1 or len(parts) == 1:
        return sum(part.variance for part in parts), parts
    records = parts[-1].variance
    seeds_alone = sum(part.variance for part in parts[:-1])
    return seeds_alone + records - min(interaction, seeds_alone, records), parts


def _quantile(parts: Sequence[Part], probability: float) -> float:
    """Return the mean of the parts' t quantiles, weighted by their variances (Cochran, 1964)."""
    quantiles = [float(special.stdtrit(part.freedom, probability)) for part in parts]
    total = sum(part.variance for part in parts)
    if total == 0:
        return max(quantiles)
    weighted = zip(quantiles, parts, strict=True)
    return sum(quantile * part.variance for quantile, part in weighted) / total


def _p_value(parts: Sequence[Part], ratio: float) -> float:
    """Return the two-sided p-value for which `_quantile` is the ratio found."""
    smallest = 1e-12
    if ratio >= _quantile(parts, 1 - smallest / 2):
        return smallest

    def distance(p_value: float) -> float:
        return _quantile(parts, 1 - p_value / 2) - ratio

    return float(optimize.brentq(distance, smallest, 1.0))


def _differing_clusters(
    first: Numbers, second: Numbers, weights: Numbers | None, clusters: Clusters | None
) -> int:
    """Return the number of clusters on which the two groups' means differ."""
    apart = (first.mean(axis=0) - second.mean(axis=0)) * _shares(first, weights)
    if clusters is None:
        clusters = np.arange(len(apart))
    _, place = np.unique(clusters, return_inverse=True)
    return int((np.abs(np.bincount(place, apart)) > 1e-12).sum())
