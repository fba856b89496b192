"""Made-up data of known truth: how often intervals cover it, and how often a claim is false.

There are sweeps, judges of a known bias, whose mean a person's labels correct, and votes.
`make simulate` draws 2,000 of each. The suite draws 200 of some.
"""

import argparse
import sys
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

from sft.scoring.bradley_terry import POINTS, ratings
from sft.scoring.labels import FEWEST, corrected_mean
from sft.scoring.seeds import Clusters, group_difference, group_mean, holm
from sft.scoring.statistics import LEVEL, Numbers

SEEDS = 5

# What the intervals must cover at least, and the share of false claims that is allowed.
COVERED = 0.93
CLAIMED = 0.065

# A bootstrap of a model that nearly always wins is a little too short.
COVERED_OF_POLLS = 0.92


@dataclass(frozen=True)
class World:
    """The made-up world that the answers come from.

    A number is drawn for each seed, each record, each pair of record and recipe, and each answer.
    The answer's own has a standard deviation of 1. An answer is right if `centre` and the sum of
    all its numbers are above 0. If not `shares`, the sum itself is the value.
    """

    name: str
    seeds: float
    records: float
    centre: float = 0.8
    number: int = 110
    shares: bool = True
    cluster: int = 1
    same_seeds: bool = True

    def truth(self) -> float:
        """Return the mean over all seeds and records."""
        if not self.shares:
            return self.centre
        return float(stats.norm.cdf(self.centre / (1 + self.seeds**2 + self.records**2) ** 0.5))

    def clusters(self) -> Clusters:
        """Return the number of each record's cluster."""
        return np.arange(self.number) // self.cluster

    def groups(self, rng: np.random.Generator, count: int) -> list[Numbers]:
        """Draw the tables of recipes that are equally good, each (seeds, records)."""
        clusters = self.number // self.cluster
        shared = rng.normal(0, self.records * 0.8, clusters)
        found = []
        for _ in range(count):
            own = rng.normal(0, self.records * 0.6, clusters)
            sums = (shared + own)[self.clusters()] + rng.normal(0, self.seeds, (SEEDS, 1))
            sums = sums + rng.normal(0, 1, (SEEDS, self.number)) + self.centre
            found.append((sums > 0).astype(float) if self.shares else sums)
        return found


WORLDS = (
    World("seeds and records alike", 0.2, 1.0),
    World("good seeds and bad ones", 0.5, 1.0),
    World("seeds without effect", 0.0, 1.0),
    World("hard records and easy ones", 0.1, 3.0),
    World("other seeds in each group", 0.2, 1.0, same_seeds=False),
    World("nine of ten right", 0.2, 1.0, centre=1.9),
    World("near-duplicates, five each", 0.2, 1.0, number=200, cluster=5),
    World("continuous values", 0.15, 1.0, shares=False),
    World("55 records", 0.2, 1.0, number=55),
)


@dataclass(frozen=True)
class Biased:
    """A judge that gives each answer the person's score, a bias, and noise, from 0 to 100.

    A person scores around `centre`, or, with `shares`, calls that share of the answers right. With
    `blind`, the judge's scores have nothing to do with the person's. It scores `number` answers, of
    which the person labels `FEWEST`.
    """

    name: str
    bias: float
    noise: float
    centre: float = 60.0
    shares: bool = False
    blind: bool = False
    number: int = 110

    def scores(self, rng: np.random.Generator, number: int) -> tuple[Numbers, Numbers]:
        """Draw the scores of the person and those of the judge."""
        if self.shares:
            person = np.where(rng.random(number) < self.centre / 100, 100.0, 0.0)
        else:
            person = np.clip(rng.normal(self.centre, 25, number), 0, 100)
        seen = rng.permutation(person) if self.blind else person
        return person, np.clip(seen + self.bias + rng.normal(0, self.noise, number), 0, 100)

    def truth(self) -> float:
        """Return the person's mean over all answers that there could be."""
        if self.shares:
            return self.centre
        low, high = -self.centre / 25, (100 - self.centre) / 25
        within = stats.truncnorm.mean(low, high) * (stats.norm.cdf(high) - stats.norm.cdf(low))
        middle = self.centre * (stats.norm.cdf(high) - stats.norm.cdf(low))
        return float(middle + 25 * within + 100 * stats.norm.sf(high))


JUDGES = (
    Biased("a kind judge", 20, 10),
    Biased("a kind judge of 1,000 answers", 20, 10, number=1000),
    Biased("a stern judge", -30, 20),
    Biased("a blind judge", 0, 10, blind=True),
    Biased("right or wrong", 10, 40, centre=70, shares=True),
    Biased("nine of ten right", -20, 40, centre=90, shares=True),
    Biased("nearly all right", 0, 40, centre=97, shares=True),
    Biased("scores near the top", -10, 20, centre=95),
)


def corrected(judge: Biased, draws: int, rng: np.random.Generator) -> float:
    """Return the share of draws in which the corrected mean's interval holds the truth."""
    truth = judge.truth()
    inside = 0
    for _ in range(draws):
        person, scores = judge.scores(rng, judge.number)
        found = corrected_mean(person[:FEWEST], scores[:FEWEST], scores[FEWEST:])
        inside += found.interval[0] <= truth <= found.interval[1]
    return inside / draws


def covered(world: World, sweeps: int, rng: np.random.Generator) -> float:
    """Return the share of sweeps in which a group's interval holds the truth."""
    inside = 0
    for _ in range(sweeps):
        found = group_mean(world.groups(rng, 1)[0], clusters=world.clusters())
        assert found.interval
        inside += found.interval[0] <= world.truth() <= found.interval[1]
    return inside / sweeps


def claimed(world: World, sweeps: int, rng: np.random.Generator, groups: int = 2) -> float:
    """Return the share of sweeps in which some groups are said to differ, though none do."""
    claims = 0
    for _ in range(sweeps):
        tables = world.groups(rng, groups)
        p_values = []
        for one in range(groups):
            for other in range(one):
                found = group_difference(
                    tables[one],
                    tables[other],
                    clusters=world.clusters(),
                    same_seeds=world.same_seeds,
                )
                p_values.append(found.p_value)
        claims += min(holm(p_values)) < 1 - LEVEL
    return claims / sweeps


@dataclass(frozen=True)
class Poll:
    """Votes between models of known strengths, by Davidson's model.

    Attributes:
        logs: the logarithms of the strengths.
        ties: how common ties are.
        votes: on each record, each on a pair by chance.
    """

    name: str
    logs: tuple[float, ...]
    ties: float = 0.8
    records: int = 60
    votes: int = 2

    def truth(self) -> Numbers:
        """Return the strengths in points."""
        return POINTS * (np.array(self.logs) - np.mean(self.logs))

    def drawn(self, rng: np.random.Generator) -> tuple[Numbers, Numbers]:
        """Draw wins and ties, each (records, models, models)."""
        models = len(self.logs)
        wins = np.zeros((self.records, models, models))
        ties = np.zeros_like(wins)
        pairs = list(combinations(range(models), 2))
        for record in range(self.records):
            for place in rng.integers(0, len(pairs), self.votes):
                i, j = pairs[place]
                one, other = self.logs[i], self.logs[j]
                weights = np.exp([one, other, np.log(self.ties) + (one + other) / 2])
                outcome = rng.choice(3, p=weights / weights.sum())
                wins[record, i, j] += outcome == 0
                wins[record, j, i] += outcome == 1
                ties[record, i, j] += outcome == 2
        return wins, ties


POLLS = (
    Poll("three models", (0.0, 0.5, 1.0)),
    Poll("186 records, one vote each", (0.0, 0.5, 1.0), records=186, votes=1),
    Poll("one that nearly always wins", (0.0, 0.0, 3.0), ties=0.4, votes=1),
    Poll("four that are equal", (0.0,) * 4),
)


def polled(poll: Poll, polls: int, rng: np.random.Generator) -> tuple[float, float]:
    """Return the share of strengths that intervals hold, and of polls whose ranks differ."""
    inside = 0
    apart = 0
    for _ in range(polls):
        found = ratings([str(place) for place in range(len(poll.logs))], *poll.drawn(rng))
        assert found
        for one, truth in zip(found, poll.truth(), strict=True):
            assert one.interval
            inside += one.interval[0] <= truth <= one.interval[1]
        apart += any(one.rank != 1 for one in found)
    return inside / polls / len(poll.logs), apart / polls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweeps", type=int, default=2000)
    sweeps = parser.parse_args().sweeps

    print(f"{sweeps:,} sweeps of {SEEDS} seeds       covered   false claims: 2 groups   4 groups")
    failed = False
    for number, world in enumerate(WORLDS):
        rng = np.random.default_rng(number)
        inside = covered(world, sweeps, rng)
        two = claimed(world, sweeps, rng)
        four = claimed(world, sweeps, rng, groups=4)
        print(f"{world.name:32}{inside:>9.1%}{two:>25.1%}{four:>11.1%}", flush=True)
        failed |= inside < COVERED or max(two, four) > CLAIMED

    print(f"\n{sweeps:,} draws of {FEWEST} labels       covered")
    for number, judge in enumerate(JUDGES):
        inside = corrected(judge, sweeps, np.random.default_rng(number))
        print(f"{judge.name:32}{inside:>9.1%}", flush=True)
        failed |= inside < COVERED

    print(f"\n{sweeps:,} polls of people's votes     covered   ranks apart")
    for number, poll in enumerate(POLLS):
        inside, apart = polled(poll, sweeps, np.random.default_rng(number))
        print(f"{poll.name:32}{inside:>9.1%}{apart:>14.1%}", flush=True)
        failed |= inside < COVERED_OF_POLLS or (len(set(poll.logs)) == 1 and apart > CLAIMED)
    if failed:
        sys.exit(
            f"error: expected at least {COVERED:.0%} covered, and at most {CLAIMED:.1%} claims"
        )


if __name__ == "__main__":
    main()
