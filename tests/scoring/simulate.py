"""Sweeps of known truth: how often the intervals cover it, and how often a claim is false.

`make simulate` makes 2,000 sweeps of each world. The suite makes 200 of some.
"""

import argparse
import sys
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sft.scoring.seeds import Clusters, group_difference, group_mean, holm
from sft.scoring.statistics import LEVEL, Numbers

SEEDS = 5

# What the intervals must cover at least, and the share of false claims that is allowed.
COVERED = 0.93
CLAIMED = 0.065


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
    if failed:
        sys.exit(
            f"error: expected at least {COVERED:.0%} covered, and at most {CLAIMED:.1%} claims"
        )


if __name__ == "__main__":
    main()
