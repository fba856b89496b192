"""The outcome of the votes: win rates, strengths, and the agreement of voters."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean as mean

import numpy as np

from sft.errors import counted
from sft.scoring.agreement import Agreement, Item, cohen, fleiss
from sft.scoring.bradley_terry import Rating, ratings
from sft.scoring.statistics import Interval, difference, verdict
from sft.voting.ballots import Arena, Ballot, judged
from sft.voting.votes import Vote

# With more voters than this, only their common agreement is shown.
MOST_VOTERS = 5

RATED = (
    "strengths: the model of Bradley and Terry with Davidson's ties, in points of Elo's scale "
    "(400 points are odds of 10 to 1), with intervals over records"
)


@dataclass(frozen=True)
class PairOutcome:
    """The votes on two models.

    Attributes:
        rate: the share of votes that the first model won, a tie counting half. A record counts as
            one, however many voted on it.
        interval: its 95% interval, over records; None: too few records for one.
        bad: how many of the ties say that both answers are bad.
    """

    first: str
    second: str
    records: int
    wins: int
    ties: int
    losses: int
    bad: int
    rate: float
    interval: Interval | None
    p_value: float
    verdict: str


@dataclass(frozen=True)
class Voters:
    """The agreement of voters."""

    names: str
    agreement: Agreement


@dataclass(frozen=True)
class Outcome:
    """The result of the votes.

    Attributes:
        votes: how many count.
        voters: the number of votes of each.
        ballots: how many were voted on, and how many there are.
        alike: how many pairs of answers are the same, and were not shown.
        others: votes in the file on other answers than those of today.
        ratings: None for two models, or if the votes do not connect all models.
        left: the share of won votes that went to the answer on the left.
    """

    models: list[str]
    votes: int
    voters: dict[str, int]
    ballots: tuple[int, int]
    alike: int
    others: int
    pairs: list[PairOutcome]
    ratings: list[Rating] | None
    agreements: list[Voters]
    left: float | None

    @property
    def unconnected(self) -> bool:
        """Whether strengths are missing because some models were not compared."""
        return self.ratings is None and len(self.models) > 2 and self.votes > 0


def outcome(arena: Arena, votes: Iterable[Vote]) -> Outcome:
    """Count the votes. Those on other ballots than the arena's are left out."""
    votes = list(votes)
    known = [vote for vote in votes if vote.ballot in arena.by_key]
    voters: dict[str, int] = {}
    for vote in known:
        voters[vote.voter] = voters.get(vote.voter, 0) + 1
    won = [vote.choice == vote.left for vote in known if vote.choice in ("first", "second")]
    return Outcome(
        models=[candidate.name for candidate in arena.candidates],
        votes=len(known),
        voters=dict(sorted(voters.items())),
        ballots=(len({vote.ballot for vote in known}), len(arena.ballots)),
        alike=arena.alike,
        others=len(votes) - len(known),
        pairs=_pairs(arena, known),
        ratings=_ratings(arena, known),
        agreements=[*_between_voters(arena, known), *_with_the_judge(arena, known)],
        left=mean(won) if won else None,
    )


def _pairs(arena: Arena, votes: Sequence[Vote]) -> list[PairOutcome]:
    """Return the votes on each two models that were compared, in the command line's order."""
    by_pair: dict[tuple[int, int], list[tuple[int, int, bool]]] = {}
    for vote in votes:
        ballot = arena.by_key[vote.ballot]
        points = {"first": 1, "second": -1}.get(vote.choice, 0)
        pair = (ballot.first, ballot.second)
        if ballot.first > ballot.second:
            pair, points = (ballot.second, ballot.first), -points
        found = by_pair.setdefault(pair, [])
        found.append((ballot.record.record, points, vote.choice == "bad"))
    return [_pair(arena, pair, found) for pair, found in sorted(by_pair.items())]


def _pair(
    arena: Arena, pair: tuple[int, int], found: Sequence[tuple[int, int, bool]]
) -> PairOutcome:
    """Return the votes on one pair.

    Args:
        found: of each vote the record, 1, 0 or -1 for the first model, and whether both are bad.
    """
    by_record: dict[int, list[int]] = {}
    for record, points, _ in found:
        by_record.setdefault(record, []).append(points)
    means = [mean(points) for points in by_record.values()]
    apart = difference(means, [0.0] * len(means))
    assert apart is not None

    first, second = (arena.candidates[place].name for place in pair)
    counts = [points for _, points, _ in found]
    ends = apart.interval
    return PairOutcome(
        first,
        second,
        records=len(means),
        wins=counts.count(1),
        ties=counts.count(0),
        losses=counts.count(-1),
        bad=sum(bad for _, _, bad in found),
        rate=(1 + apart.difference) / 2,
        interval=((1 + ends[0]) / 2, (1 + ends[1]) / 2) if ends else None,
        p_value=apart.p_value,
        verdict=verdict(apart, first, second),
    )


def _ratings(arena: Arena, votes: Sequence[Vote]) -> list[Rating] | None:
    """Return the strengths of three models and more. Two bad answers are a tie."""
    models = [candidate.name for candidate in arena.candidates]
    if len(models) < 3 or not votes:
        return None

    # (records, models, models)
    wins = np.zeros((len(arena.rows), len(models), len(models)))
    ties = np.zeros_like(wins)
    for vote in votes:
        ballot = arena.by_key[vote.ballot]
        place = ballot.record.record - 1
        if vote.choice == "first":
            wins[place, ballot.first, ballot.second] += 1
        elif vote.choice == "second":
            wins[place, ballot.second, ballot.first] += 1
        else:
            ties[place, ballot.first, ballot.second] += 1
    voted = (wins + ties).sum(axis=(1, 2)) > 0
    return ratings(models, wins[voted], ties[voted])


def _between_voters(arena: Arena, votes: Sequence[Vote]) -> list[Voters]:
    """Return the agreement of each two voters and, of three and more, that of all together."""
    by_ballot: dict[str, dict[str, str]] = {}
    for vote in votes:
        by_ballot.setdefault(vote.ballot, {})[vote.voter] = vote.choice
    names = sorted({vote.voter for vote in votes})

    found = []
    if len(names) <= MOST_VOTERS:
        for one, other in combinations(names, 2):
            items = []
            for key, choices in by_ballot.items():
                if one in choices and other in choices:
                    items.append(_item(arena.by_key[key], choices[one], choices[other]))
            found.append((f"{one} and {other}", cohen(items)))
    if len(names) > 2:
        items = [_item(arena.by_key[key], *choices.values()) for key, choices in by_ballot.items()]
        found.append(("all voters", fleiss(items)))
    return [Voters(who, agreement) for who, agreement in found if agreement]


def _with_the_judge(arena: Arena, votes: Sequence[Vote]) -> list[Voters]:
    """Return the agreement of the voters with the judge, which cannot call both answers bad."""
    items = []
    for vote in votes:
        ballot = arena.by_key[vote.ballot]
        preferred = judged(arena, ballot)
        if preferred is not None:
            choice = "tie" if vote.choice == "bad" else vote.choice
            items.append(_item(ballot, choice, preferred))
    agreement = cohen(items)
    return [Voters("voters and judge", agreement)] if agreement else []


def _item(ballot: Ballot, *judgements: str) -> Item:
    return Item(ballot.record.record, judgements)


def outcome_text(found: Outcome) -> str:
    """Return the outcome as tables for the terminal."""
    if not found.votes:
        return "no vote yet"
    lines = [summary_line(found), "", *_pair_lines(found.pairs)]
    if found.ratings:
        lines += ["", *_rating_lines(found.ratings)]
    if found.agreements:
        lines += ["", f"{'agreement':32}{'pairs':>6}{'alike':>8}{'kappa':>8}{'95% interval':>18}"]
        for one in found.agreements:
            both = one.agreement
            shown = f"{_short(one.names, 32)}{both.items:>6}{both.share:>8.0%}"
            lines.append(f"{shown}{_number(both.kappa):>8}{_interval(both.interval):>18}".rstrip())
    verdicts = [f"{one.first} : {one.second}: {one.verdict}" for one in found.pairs]
    return "\n".join([*lines, "", *verdicts, *remarks(found)])


def summary_line(found: Outcome) -> str:
    """Say how many votes there are, and who gave them."""
    voters = ", ".join(f"{name} {count}" for name, count in found.voters.items())
    seen, there = found.ballots
    return f"{counted(found.votes, 'vote')} ({voters}) on {seen:,} of {there:,} pairs of answers"


def remarks(found: Outcome) -> list[str]:
    """Return what a reader should know about the numbers."""
    lines = []
    if found.ratings:
        lines.append(RATED)
    if found.unconnected:
        lines.append("no strengths yet: the votes leave some models unconnected; go on voting")
    if found.alike:
        lines.append(f"not shown, since both answers are the same: {counted(found.alike, 'pair')}")
    if found.left is not None:
        lines.append(f"the answer on the left won {found.left:.0%} of the votes with a winner")
    if found.others:
        lines.append(
            f"not counted: {counted(found.others, 'vote')} on other models or other answers"
        )
    return lines


def _pair_lines(pairs: Sequence[PairOutcome]) -> list[str]:
    header = f"{'first : second':32}{'win/tie/loss':>14}{'both bad':>9}{'win rate':>9}"
    lines = [f"{header}{'95% interval':>18}{'p':>8}"]
    for one in pairs:
        names = _short(f"{one.first} : {one.second}", 32)
        counts = f"{one.wins}/{one.ties}/{one.losses}"
        lines.append(
            f"{names}{counts:>14}{one.bad:>9}{one.rate:>9.3f}"
            f"{_interval(one.interval):>18}{one.p_value:>8.2g}"
        )
    return lines


def _rating_lines(found: Sequence[Rating]) -> list[str]:
    lines = [f"{'model':32}{'rank':>6}{'strength':>10}{'95% interval':>18}"]
    for one in sorted(found, key=lambda rating: -rating.points):
        ends = f"{one.interval[0]:.0f} to {one.interval[1]:.0f}" if one.interval else ""
        rank = "-" if one.rank is None else str(one.rank)
        lines.append(f"{_short(one.model, 32)}{rank:>6}{one.points:>10.0f}{ends:>18}".rstrip())
    return lines


def _short(name: str, width: int) -> str:
    """Return a name in a column: its end, since the beginnings of paths are alike."""
    return name.ljust(width) if len(name) < width else f"…{name[-(width - 2) :]} "


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(value: Interval | None) -> str:
    return f"{value[0]:.3f} to {value[1]:.3f}" if value else ""
