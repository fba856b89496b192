"""Judgements, and the files that keep them.

A judgement is a `Score` of one answer, or a `Choice` between two. Its status is one of STATUSES.
A judgement with a status in FINAL is never repeated. The others are, by the next run of the same
command: `cut` (the reply reached judge.max_tokens), `timeout` and `error`.
"""

from dataclasses import dataclass

from sft.jsonl import LineFile

FINAL = ("scored", "unparsed", "refused")
STATUSES = (*FINAL, "cut", "timeout", "error")


@dataclass(frozen=True)
class Score:
    """A judgement on one answer, from 0 to 100.

    `score` is None unless the status is `scored`. `reason` is the judge's, or says why there is no
    score. The last four fields describe the judge's reply, where there was one.
    """

    status: str
    score: float | None
    reason: str
    done_reason: str | None = None
    prompt_tokens: int | None = None
    reply_tokens: int | None = None
    form: str | None = None

    def __post_init__(self) -> None:
        in_range = type(self.score) in (int, float) and 0 <= (self.score or 0) <= 100
        _check(self.status, self.score, in_range)


@dataclass(frozen=True)
class Choice:
    """A judgement on two answers in one order: A, B or tie. The other fields are as in a Score."""

    status: str
    winner: str | None
    reason: str
    done_reason: str | None = None
    prompt_tokens: int | None = None
    reply_tokens: int | None = None
    form: str | None = None

    def __post_init__(self) -> None:
        _check(self.status, self.winner, self.winner in ("A", "B", "tie"))


def _check(status: str, value: object, allowed: bool) -> None:
    """Raise ValueError unless a `scored` judgement has an allowed value, and any other has none."""
    fits = allowed if status == "scored" else value is None
    if status not in STATUSES or not fits:
        raise ValueError(f"not a judgement: status {status}, value {value}")


@dataclass(frozen=True)
class Comparison:
    """The two choices on a pair, which is asked in both orders.

    `tuned_first` and `base_first` are the winner in that order (tuned, base or tie), or the status
    of a choice without a winner. `winner` is the winner of both orders. Two different winners make
    a tie. If a winner is missing, `winner` is None.
    """

    winner: str | None
    tuned_first: str
    base_first: str
    reason: str


class ScoreFile(LineFile[Score]):
    """`scores.jsonl`."""

    kind = Score
    noun = "judgement"


class PairFile(LineFile[Choice]):
    """`pairs.jsonl`: two lines for each pair."""

    kind = Choice
    noun = "judgement"
