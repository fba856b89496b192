"""Agreement between people, or between people and a judge, beyond chance.

Cohen's kappa (1960) is for two of them, and Fleiss' kappa (1971) for more. Not everyone need have
judged every item: Fleiss' agreement on an item is the share of its pairs of judgements that agree,
and an item with one judgement has none.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from sft.scoring.seeds import FEWEST
from sft.scoring.statistics import LEVEL, Interval, Numbers, redraws


@dataclass(frozen=True)
class Item:
    """One thing that several judged, with their judgements.

    Attributes:
        record: items of one record are drawn together.
    """

    record: Hashable
    judgements: tuple[Hashable, ...]


@dataclass(frozen=True)
class Agreement:
    """The agreement of judgements.

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
    return _agreement([item for item in items if len(item.judgements) == 2], people=2)


def fleiss(items: Sequence[Item]) -> Agreement | None:
    """Return the agreement of any number of judgements on each item."""
    return _agreement([item for item in items if len(item.judgements) > 1], people=1)


def _agreement(items: Sequence[Item], people: int) -> Agreement | None:
    """Return the agreement on the items; None for no items.

    Args:
        people: 2 if each item's two judgements are of the same two people, who may differ in how
            often they choose a value. 1 if they are taken for judgements of one population.
    """
    if not items:
        return None
    records = list(dict.fromkeys(item.record for item in items))
    places = {record: place for place, record in enumerate(records)}
    values = list(dict.fromkeys(value for item in items for value in item.judgements))

    # The sums of each record: its items, the agreement on them, and how often each value was
    # chosen, by each of the people.
    sums = np.zeros((len(records), 2 + people * len(values)))
    for item in items:
        row = sums[places[item.record]]
        row[:2] += 1, _agreeing(item)
        for number, value in enumerate(item.judgements):
            row[2 + number % people * len(values) + values.index(value)] += 1

    total = sums.sum(axis=0)
    share = float(total[1] / total[0])
    kappa = _kappa(total[None], people)[0]
    return Agreement(
        len(items), share, None if np.isnan(kappa) else float(kappa), _interval(sums, people)
    )


def _agreeing(item: Item) -> float:
    """Return the share of the pairs of judgements that agree."""
    count = len(item.judgements)
    same = sum(number * (number - 1) for number in Counter(item.judgements).values())
    return same / (count * (count - 1))


def _kappa(sums: Numbers, people: int) -> Numbers:
    """Return the agreement beyond chance, (draws,); NaN where chance alone gives 1.

    Args:
        sums: (draws, sums), as `_agreement` makes them.
    """
    share = sums[:, 1] / sums[:, 0]
    chosen = sums[:, 2:].reshape(len(sums), people, -1)
    chosen = chosen / chosen.sum(axis=2, keepdims=True)
    chance = (chosen[:, 0] * chosen[:, -1]).sum(axis=1)
    found = np.full(len(sums), np.nan)
    certain = chance > 1 - 1e-12
    found[~certain] = (share - chance)[~certain] / (1 - chance)[~certain]
    return found


def _interval(sums: Numbers, people: int) -> Interval | None:
    """Return the interval of a bootstrap over records.

    Args:
        sums: (records, sums)
    """
    if len(sums) < FEWEST:
        return None
    drawn = _kappa(redraws(len(sums)) @ sums, people)
    if np.isnan(drawn).all():
        return None
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
