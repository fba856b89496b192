"""A person's labels of some answers beside a judge's scores of all, and a corrected mean.

A judge is cheap and biased, a person right and slow. Prediction-powered inference (Angelopoulos et
al., 2023, arXiv 2301.09633) takes the judge's mean over all answers, and its bias from the labelled
ones. The judge's weight is that of PPI++ (Angelopoulos, Duchi and Zrnic, 2023, arXiv 2311.01453):

    mean(labels) + weight * (mean(judge, the others) - mean(judge, the labelled))
    weight = cov(labels, judge) / var(judge) / (1 + labelled / others)

A judge that knows nothing gets a weight near 0, so that the mean is that of the labels alone. The
labelled answers must have been drawn at random.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sft.scoring.agreement import Agreement, Item, cohen
from sft.scoring.statistics import LEVEL, Interval, Numbers, wilson

# With fewer labels, their spread is not known well enough for an interval.
FEWEST = 30

# Scores and labels reach from 0 to this, and an answer counts as right from half of it on.
TOP = 100.0
RIGHT = 50.0


@dataclass(frozen=True)
class Corrected:
    """A judge's mean over all answers, corrected by the labels.

    Attributes:
        weight: the judge's; at 0 the mean is that of the labels.
    """

    mean: float
    interval: Interval
    weight: float


def agreement(labels: Sequence[float], scores: Sequence[float]) -> Agreement | None:
    """Return Cohen's agreement of a person and a judge on which answers are right."""
    pairs = zip(labels, scores, strict=True)
    return cohen([Item(number, (a >= RIGHT, b >= RIGHT)) for number, (a, b) in enumerate(pairs)])


def corrected_mean(labels: Numbers, scores: Numbers, others: Numbers) -> Corrected:
    """Return the mean over all answers that a person would have given, as far as can be told.

    The interval is Wilson's (1927), with the number of independent right-or-wrong answers that
    would be as uncertain. Near the ends of the scale a symmetric interval would be too short.

    Args:
        labels, scores: of the labelled answers, by person and judge; at least `FEWEST`.
        others: the judge's scores of the other answers.
    """
    weight = _weight(labels, scores, others)
    mean = float(labels.mean())
    error = (labels - weight * scores).var(ddof=2) / len(labels)
    if weight:
        mean += weight * float(others.mean() - scores.mean())
        error += weight**2 * others.var(ddof=1) / len(others)

    # At an end of the scale, no spread is left to judge by: count the labels.
    share = min(1.0, max(0.0, mean / TOP))
    count = share * (1 - share) * TOP**2 / error if error and 0 < share < 1 else len(labels)
    quantile = float(stats.t.ppf((1 + LEVEL) / 2, len(labels) - 1))
    low, high = wilson(share, float(count), quantile)
    return Corrected(share * TOP, (low * TOP, high * TOP), weight)


def _weight(labels: Numbers, scores: Numbers, others: Numbers) -> float:
    """Return the weight of the judge that makes the variance smallest, from 0 to 1."""
    spread = float(np.concatenate([scores, others]).var(ddof=1))
    if len(others) < 2 or spread == 0:
        return 0.0
    together = float(np.cov(labels, scores)[0, 1])
    return min(1.0, max(0.0, together / spread / (1 + len(labels) / len(others))))
