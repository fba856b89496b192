"""`groups.json`: what a comparison of groups of runs found."""

from dataclasses import dataclass

from sft.scoring.seeds import GroupMean
from sft.scoring.statistics import Interval


@dataclass(frozen=True)
class MetricMean(GroupMean):
    """A group's mean of one metric, and the mean of each seed."""

    by_seed: list[float]


@dataclass(frozen=True)
class GroupResult:
    """One group of runs.

    Attributes:
        label: the settings in which this group differs from the others.
        runs: their folders, as they were given.
        seeds: of each run; None for a checkpoint.
        rank: 1, plus the number of groups that are better beyond noise.
        means: of each metric, by its name.
        alike: the share of records that all seeds answer alike; None for one seed.
    """

    label: str
    runs: list[str]
    seeds: list[int | None]
    rank: int
    means: dict[str, MetricMean]
    alike: float | None


@dataclass(frozen=True)
class PairResult:
    """The difference between two groups in one metric, as in `GroupDifference`.

    Attributes:
        first, second: the places of the groups among all.
        p_corrected: the p-value, corrected for the number of pairs.
        differ: whether the groups differ beyond noise.
    """

    first: int
    second: int
    difference: float
    interval: Interval | None
    p_value: float
    visible: float | None
    p_corrected: float
    differ: bool


@dataclass(frozen=True)
class AnswerCount:
    """An answer, and how many seeds of a group gave it."""

    text: str
    seeds: int


@dataclass(frozen=True)
class DisputedRecord:
    """A record on which seeds disagree.

    Attributes:
        spread: the largest standard deviation over a group's seeds.
        answers: of each group, the most frequent first.
    """

    record: int
    instruction: str
    input: str
    output: str
    spread: float
    answers: list[list[AnswerCount]]


@dataclass(frozen=True)
class GroupsSummary:
    """The comparison of all groups.

    Attributes:
        ranked_by: the metric of the ranks.
        split: None if the runs were not evaluated.
        clusters: how many there are of records that resemble each other.
        order: the places of the groups, the best first.
        differences: of each metric, by its name: each group with each later one.
        disputed: the records on which seeds disagree most, the worst first.
        notes: what else differs between the runs.
        verdicts: of each metric: which groups differ in it, in one sentence.
    """

    ranked_by: str
    split: str | None
    records: int
    clusters: int
    order: list[int]
    groups: list[GroupResult]
    differences: dict[str, list[PairResult]]
    disputed: list[DisputedRecord]
    notes: list[str]
    verdicts: dict[str, str]
