"""Agreement between people, or between people and a judge, beyond chance.

Cohen's kappa (1960) is for two of them, and Fleiss' kappa (1971) for more. Not everyone need have
judged every item: Fleiss' agreement on an item is the share of its pairs of judgements that agree,
and an item with one judgement has none.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean as mean

import numpy as np

from sft.scoring.seeds import FEWEST
from sft.scoring.statistics import LEVEL, Interval

RESAMPLES = 999


@dataclass(frozen=True)
class Item:
    """What several judged, with their judgements.

    Attributes:
        record: items of one record are drawn together.
    """

    record: Hashable
    judgements: tuple[Hashable, ...]


@dataclass(frozen=True)
class Agreement:
    """How often judgements agree.

    Attributes:
        items: how many had two judgements or more.
        share: of the pairs of judgements on an item that agree, a mean over the items.
        kappa: the share beyond what chance would give; None if chance alone gives 1.
        interval: the 95% interval of kappa, over records; None for fewer than six.
    """

    items: int
    share: float
    kappa: float | None
    interval: Interval | None


def cohen(items: Sequence[Item]) -> Agreement | None:
    """Return the agreement of two, whose judgements stand in the same order in each item."""
    return _agreement([item for item in items if len(item.judgements) == 2], _cohen)


def fleiss(items: Sequence[Item]) -> Agreement | None:
    """Return the agreement of any number of judgements on each item."""
    return _agreement([item for item in items if len(item.judgements) > 1], _fleiss)


def _agreement(
    items: Sequence[Item], kappa: Callable[[Sequence[Item]], float | None]
) -> Agreement | None:
    if not items:
        return None
    by_record: dict[Hashable, list[Item]] = {}
    for item in items:
        by_record.setdefault(item.record, []).append(item)
    share = mean(_agreeing(item) for item in items)
    return Agreement(len(items), share, kappa(items), _interval(list(by_record.values()), kappa))


def _interval(
    records: Sequence[Sequence[Item]], kappa: Callable[[Sequence[Item]], float | None]
) -> Interval | None:
    """Return the interval of a bootstrap over records."""
    if len(records) < FEWEST:
        return None
    rng = np.random.default_rng(0)
    values = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(0, len(records), len(records))
        value = kappa(list(chain.from_iterable(records[index] for index in drawn)))
        if value is not None:
            values.append(value)
    if not values:
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _agreeing(item: Item) -> float:
    """Return the share of the pairs of judgements that agree."""
    count = len(item.judgements)
    same = sum(number * (number - 1) for number in Counter(item.judgements).values())
    return same / (count * (count - 1))


def _cohen(items: Sequence[Item]) -> float | None:
    first = Counter(item.judgements[0] for item in items)
    second = Counter(item.judgements[1] for item in items)
    chance = sum(first[value] * second[value] for value in first) / len(items) ** 2
    return _beyond(mean(_agreeing(item) for item in items), chance)


def _fleiss(items: Sequence[Item]) -> float | None:
    found = Counter(value for item in items for value in item.judgements)
    total = sum(found.values())
    chance = sum((number / total) ** 2 for number in found.values())
    return _beyond(mean(_agreeing(item) for item in items), chance)


def _beyond(share: float, chance: float) -> float | None:
    return (share - chance) / (1 - chance) if chance < 1 else None
