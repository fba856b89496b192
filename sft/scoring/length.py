"""The win rate of a model if its answers were as long as the other's.

A judge may favour long answers. AlpacaEval 2 (Dubois et al., 2024, arXiv 2404.04475) fits a
logistic regression of the wins on the difference in length, and reads it at a difference of 0:

    logit P(win) = a + b * tanh(difference / its standard deviation)

Its third term, how hard each instruction is, needs many models and is left out here. Where one
model wins everything, no such fit is finite. So the likelihood has Jeffreys' prior (Firth, 1993,
Biometrika 80).
"""

from collections.abc import Sequence

import numpy as np
from scipy import optimize, special, stats

from sft.scoring.results import WinRate
from sft.scoring.statistics import LEVEL, Numbers


def length_controlled(points: Sequence[float], longer: Sequence[float]) -> WinRate | None:
    """Return the win rate at equal lengths; None if the difference in length is always the same.

    Args:
        points: of the model in each pair: 1 for a win, 0.5 for a tie, 0 for a loss.
        longer: by how much its answer is longer.
    """
    won = np.asarray(points, dtype=np.float64)
    lengths = np.asarray(longer, dtype=np.float64)
    if len(won) < 2 or lengths.std() == 0:
        return None
    factors = np.stack([np.ones_like(lengths), np.tanh(lengths / lengths.std())], axis=1)
    found = optimize.minimize(_penalised, np.zeros(2), (factors, won), method="BFGS").x

    # The interval is symmetric on the scale of the logit.
    spread = np.linalg.inv(_information(found, factors))[0, 0] ** 0.5
    half = float(stats.norm.ppf((1 + LEVEL) / 2)) * spread
    low, rate, high = special.expit([found[0] - half, found[0], found[0] + half])
    return WinRate(float(rate), (float(low), float(high)))


def _information(weights: Numbers, factors: Numbers) -> Numbers:
    """Return Fisher's information, (2, 2)."""
    chance = special.expit(factors @ weights)
    information: Numbers = (factors.T * (chance * (1 - chance))) @ factors
    return information


def _penalised(weights: Numbers, factors: Numbers, won: Numbers) -> float:
    """Return the negative log-likelihood under Jeffreys' prior."""
    logits = factors @ weights
    likelihood = (won * special.log_expit(logits) + (1 - won) * special.log_expit(-logits)).sum()
    return -float(likelihood + np.linalg.slogdet(_information(weights, factors))[1] / 2)
