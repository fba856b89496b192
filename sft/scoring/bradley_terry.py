"""Strengths of models from comparisons with ties.

Davidson's model (1970) is the one of Bradley and Terry (1952) with ties. A model i has a strength
s_i, and all pairs share one number v, which says how common ties are:

    P(i beats j) = s_i / (s_i + s_j + v sqrt(s_i s_j))
    P(a tie)     = v sqrt(s_i s_j) / (s_i + s_j + v sqrt(s_i s_j))

In logarithms this is a multinomial logit, whose likelihood has one maximum. It lies at infinity if
a model won or lost all its comparisons (Ford, 1957). So half a win is added to each side of each
pair that was compared and, where there are ties, half a tie. With two models this is the correction
of Haldane (1955) and Anscombe (1956).

The intervals are those of a bootstrap that draws records: all comparisons on a record stay
together, those of several judges and of several pairs too. Percentiles of a bootstrap are too
narrow for few records, so they are taken further out ("expanded percentiles": Hesterberg, 2015).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import log, sqrt

import numpy as np
from scipy import special, stats
from scipy.sparse.csgraph import connected_components

from sft.scoring.seeds import FEWEST, holm
from sft.scoring.statistics import LEVEL, Interval, Numbers, redraws

# A strength is given in the points of Elo's scale for chess: 400 points are odds of 10 to 1.
POINTS = 400 / log(10)

# What is added to each count of a pair that was compared: its wins, its losses and its ties.
ADDED = 0.5

# Newton's method ends after a step this small, and after this many in any case. The likelihood is
# rounded by less than ROUNDING.
PRECISE = 1e-6
STEPS = 50
ROUNDING = 1e-6


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

    # (draws, models), of which the first draw takes each record once.
    points = _points(wins, ties, np.concatenate([np.ones((1, len(wins))), redraws(len(wins))]))
    found = points[0]
    drawn = points[1:]
    compared = int(((wins + ties).sum(axis=(1, 2)) > 0).sum())
    if compared < FEWEST:
        return [
            Rating(model, float(value), None, None)
            for model, value in zip(models, found, strict=True)
        ]

    spread = sqrt(compared / (compared - 1)) * stats.t.ppf((1 + LEVEL) / 2, compared - 1)
    tail = float(stats.norm.sf(spread))
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    ranks = _ranks(found, drawn)
    return [
        Rating(model, float(value), (float(start), float(end)), rank)
        for model, value, start, end, rank in zip(models, found, low, high, ranks, strict=True)
    ]


def _points(wins: Numbers, ties: Numbers, times: Numbers) -> Numbers:
    """Return the points at which the likelihood of each draw is largest, (draws, models).

    Args:
        wins, ties: (records, models, models)
        times: (draws, records), how often each record was drawn.
    """
    models = wins.shape[1]
    met = (wins + ties).sum(axis=0)
    pairs = [(i, j) for i, j in combinations(range(models), 2) if met[i, j] + met[j, i] > 0]

    # (records, pairs, outcomes), summed to (draws, pairs, outcomes)
    outcomes = [
        np.stack([wins[:, i, j], wins[:, j, i], ties[:, i, j] + ties[:, j, i]], axis=1)
        for i, j in pairs
    ]
    counts = np.tensordot(times, np.stack(outcomes, axis=1), 1) + ADDED

    # The utility of an outcome is linear in the logarithms of the strengths and of v. The first
    # model's strength is 1, so it has no column. The last column is v's.
    design = np.zeros((len(pairs), 3, models + 1))
    for row, (i, j) in enumerate(pairs):
        design[row, 0, i] = design[row, 1, j] = 1
        design[row, 2, [i, j]] = 0.5
        design[row, 2, -1] = 1
    design = design[:, :, 1:]

    # Without any tie the best v is 0, whose logarithm is not finite.
    if not ties.any():
        counts = counts[:, :, :2]
        design = design[:, :2, :-1]
    logarithms = _maximum(design, counts)[:, : models - 1]
    points = POINTS * np.concatenate([np.zeros((len(counts), 1)), logarithms], axis=1)
    return np.asarray(points - points.mean(axis=1, keepdims=True))


def _maximum(design: Numbers, counts: Numbers) -> Numbers:
    """Return the parameters of multinomial logits that make the counts of each draw most likely.

    This is Newton's method for all draws at once, since a call of scipy's optimizer for each draw
    took seconds in all. A step that would make the counts less likely is halved.

    Args:
        design: (pairs, outcomes, parameters)
        counts: (draws, pairs, outcomes)

    Returns:
        (draws, parameters)
    """
    totals = counts.sum(axis=2, keepdims=True)
    found = np.zeros((len(counts), design.shape[2]))

    def likelihood(parameters: Numbers) -> Numbers:
        logs = special.log_softmax(np.einsum("pok,dk->dpo", design, parameters), axis=2)
        return np.asarray((counts * logs).sum(axis=(1, 2)))

    for _ in range(STEPS):
        shares = special.softmax(np.einsum("pok,dk->dpo", design, found), axis=2)
        slope = np.einsum("dpo,pok->dk", counts - totals * shares, design)
        apart = design - np.einsum("dpo,pok->dpk", shares, design)[:, :, None]
        curvature = np.einsum("dpo,dpok,dpol->dkl", totals * shares, apart, apart)
        step = np.linalg.solve(curvature, slope[:, :, None])[:, :, 0]

        before = likelihood(found)
        worse = likelihood(found + step) < before - ROUNDING
        while worse.any():
            step[worse] /= 2
            worse = likelihood(found + step) < before - ROUNDING
        found = found + step
        if np.abs(step).max() < PRECISE:
            break
    return found


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
        tail = min((apart <= PRECISE).sum(), (apart >= -PRECISE).sum())
        p_values.append(min(1.0, 2 * (float(tail) + 1) / (len(drawn) + 1)))

    ranks = [1] * len(points)
    for (i, j), p_value in zip(pairs, holm(p_values), strict=True):
        if p_value < 1 - LEVEL:
            ranks[j if points[i] > points[j] else i] += 1
    return ranks
