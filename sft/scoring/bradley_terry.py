"""Strengths of models from comparisons with ties.

Davidson's model (1970) is the one of Bradley and Terry (1952) with ties. A model i has a strength
s_i, and all pairs share one number v, which says how common ties are:

    P(i beats j) = s_i / (s_i + s_j + v sqrt(s_i s_j))
    P(a tie)     = v sqrt(s_i s_j) / (s_i + s_j + v sqrt(s_i s_j))

In logarithms this is a multinomial logit, whose likelihood has one maximum. It lies at infinity if
a model won or lost all its comparisons (Ford, 1957). So half a win is added to each side of each
pair that was compared. With two models this is the correction of Haldane (1955) and Anscombe
(1956).

The intervals are those of a bootstrap that draws records: all comparisons on a record stay
together, those of several judges and of several pairs too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import log

import numpy as np
from scipy import optimize, special
from scipy.sparse.csgraph import connected_components

from sft.scoring.seeds import FEWEST, holm
from sft.scoring.statistics import LEVEL, Interval, Numbers

# A strength is given in the points of Elo's scale for chess: 400 points are odds of 10 to 1.
POINTS = 400 / log(10)

# Half a win for each side of a pair that was compared.
ADDED = 0.5

RESAMPLES = 999


@dataclass(frozen=True)
class Rating:
    """The strength of one model.

    Attributes:
        points: on Elo's scale; the mean over the models is 0.
        interval: its 95% interval; None for fewer than six records.
        rank: 1, and one more for each model that is stronger beyond noise; None without intervals.
    """

    model: str
    points: float
    interval: Interval | None
    rank: int | None


def ratings(models: Sequence[str], wins: Numbers, ties: Numbers) -> list[Rating] | None:
    """Return the strengths of models, in their order.

    Args:
        wins: (records, models, models), how often the first model beat the second on a record.
        ties: (records, models, models), how often the two tied; a tie is written once, on either
            side of the diagonal.

    Returns:
        None if the comparisons leave some models unconnected, also by way of others.
    """
    met = (wins + ties).sum(axis=0)
    parts, _ = connected_components(met, directed=False)
    if parts > 1:
        return None
    points = _points(wins.sum(axis=0), ties.sum(axis=0), met)

    compared = int(((wins + ties).sum(axis=(1, 2)) > 0).sum())
    if compared < FEWEST:
        found = zip(models, points, strict=True)
        return [Rating(model, float(value), None, None) for model, value in found]

    drawn = np.stack(list(_resampled(wins, ties, met)))
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    ranks = _ranks(points, drawn)
    return [
        Rating(model, float(value), (float(start), float(end)), rank)
        for model, value, start, end, rank in zip(models, points, low, high, ranks, strict=True)
    ]


def _resampled(wins: Numbers, ties: Numbers, met: Numbers) -> Iterator[Numbers]:
    """Yield the points that redrawn records give."""
    rng = np.random.default_rng(0)
    records = len(wins)
    for _ in range(RESAMPLES):
        times = np.bincount(rng.integers(0, records, records), minlength=records)
        yield _points(np.tensordot(times, wins, 1), np.tensordot(times, ties, 1), met)


def _points(wins: Numbers, ties: Numbers, met: Numbers) -> Numbers:
    """Return the points at which the likelihood is largest, (models,).

    Args:
        wins, ties: (models, models)
        met: (models, models), above 0 where a pair was compared. Half a win is added there.
    """
    pairs = [(i, j) for i, j in combinations(range(len(wins)), 2) if met[i, j] + met[j, i] > 0]
    counts = np.array(
        [[wins[i, j] + ADDED, wins[j, i] + ADDED, ties[i, j] + ties[j, i]] for i, j in pairs]
    )

    # The utility of an outcome is linear in the logarithms of the strengths and of v. The first
    # model's strength is 1, so it has no column. The last column is v's.
    design = np.zeros((len(pairs), 3, len(wins) + 1))
    for row, (i, j) in enumerate(pairs):
        design[row, 0, i] = design[row, 1, j] = 1
        design[row, 2, [i, j]] = 0.5
        design[row, 2, -1] = 1
    design = design[:, :, 1:]

    # Without a tie the best v is 0, whose logarithm is not finite.
    if not counts[:, 2].any():
        counts = counts[:, :2]
        design = design[:, :2, :-1]
    logarithms = _maximum(design, counts)[: len(wins) - 1]
    points = POINTS * np.concatenate([[0.0], logarithms])
    return np.asarray(points - points.mean())


def _maximum(design: Numbers, counts: Numbers) -> Numbers:
    """Return the parameters of a multinomial logit that make the counts most likely.

    Args:
        design: (pairs, outcomes, parameters)
        counts: (pairs, outcomes)
    """
    totals = counts.sum(axis=1, keepdims=True)

    def loss(parameters: Numbers) -> tuple[float, Numbers]:
        logs = special.log_softmax(design @ parameters, axis=1)
        missing = counts - totals * np.exp(logs)
        return -float((counts * logs).sum()), -np.einsum("po,pok->k", missing, design)

    def curvature(parameters: Numbers) -> Numbers:
        shares = special.softmax(design @ parameters, axis=1)
        apart = design - np.einsum("po,pok->pk", shares, design)[:, None]
        return np.asarray(np.einsum("po,pok,pol->kl", totals * shares, apart, apart))

    start = np.zeros(design.shape[-1])
    found = optimize.minimize(loss, start, jac=True, hess=curvature, method="trust-exact")
    return np.asarray(found.x)


def _ranks(points: Numbers, drawn: Numbers) -> list[int]:
    """Return each model's rank, with p-values of the bootstrap that are corrected for their number.

    Args:
        points: (models,)
        drawn: (resamples, models)
    """
    pairs = list(combinations(range(len(points)), 2))
    p_values = []
    for i, j in pairs:
        apart = drawn[:, i] - drawn[:, j]
        tail = min((apart <= 0).sum(), (apart >= 0).sum())
        p_values.append(min(1.0, 2 * (float(tail) + 1) / (len(drawn) + 1)))

    ranks = [1] * len(points)
    for (i, j), p_value in zip(pairs, holm(p_values), strict=True):
        if p_value < 1 - LEVEL:
            ranks[j if points[i] > points[j] else i] += 1
    return ranks
