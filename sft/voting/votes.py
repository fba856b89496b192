"""Votes, and the file that keeps each of them the moment it is given."""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime

from sft.jsonl import LineFile
from sft.voting.ballots import Arena, Ballot

CHOICES = ("first", "second", "tie", "bad")


@dataclass(frozen=True)
class Vote:
    """One person's vote on a ballot.

    Attributes:
        ballot: its key.
        choice: which answer is better; `tie`: both are as good; `bad`: both are bad.
        left: the answer that was shown on the left, as A: `first` or `second`.
        at: the time, in UTC.
    """

    voter: str
    ballot: str
    choice: str
    left: str
    at: str

    def __post_init__(self) -> None:
        texts = (self.voter, self.ballot, self.at)
        known = self.choice in CHOICES and self.left in CHOICES[:2]
        if not known or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"not a vote: {self}")


class VoteFile(LineFile[Vote]):
    """`votes.jsonl`. A voter's last vote on a ballot counts."""

    kind = Vote
    noun = "vote"

    def of(self, voter: str, ballot: Ballot) -> Vote | None:
        """Return a voter's vote on a ballot; None: there is none yet."""
        return self.by_key.get(_key(voter, ballot))

    def give(self, arena: Arena, voter: str, ballot: Ballot, choice: str) -> None:
        """Keep a vote. It is on disk when this returns."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        vote = Vote(voter, ballot.key, choice, left(voter, ballot), now)
        names = [arena.candidates[place].name for place in (ballot.first, ballot.second)]
        self.add(_key(voter, ballot), vote, record=ballot.record.record, names=names)


def _key(voter: str, ballot: Ballot) -> str:
    return _hash(["vote", voter, ballot.key])


def left(voter: str, ballot: Ballot) -> str:
    """Return which answer a voter sees on the left: `first` or `second`, by chance.

    It is the same whenever this voter sees the ballot, also after a restart.
    """
    return CHOICES[int(_hash(["left", voter, ballot.key])[0], 16) % 2]


def _hash(content: list[str]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
