"""What becomes of a question to a judge, and the files that keep it.

Each ends in one of STATUSES. Those in FINAL are never asked for again. The others are, when the same command is given
again: `cut` (the reply reached judge.max_tokens), `timeout` and `error`.
"""

from dataclasses import dataclass

from sft.jsonl import LineFile

STATUSES = ("scored", "unparsed", "refused", "cut", "timeout", "error")
FINAL = STATUSES[:3]


@dataclass(frozen=True)
class Verdict:
    """What became of a question. The last four tell of the judge's reply, where there was one."""

    status: str
    score: int | None  # 0 to 100
    reason: str  # the judge's, or why there is no score
    done_reason: str | None = None
    prompt_tokens: int | None = None
    reply_tokens: int | None = None
    form: str | None = None

    def __post_init__(self) -> None:
        fits = (
            self.score is None
            if self.status != "scored"
            else type(self.score) is int and 0 <= self.score <= 100
        )
        if self.status not in STATUSES or not fits:
            raise ValueError(f"no verdict: {self.status}, {self.score}")


@dataclass(frozen=True)
class Choice:
    """What became of a comparison in one order; as a Verdict."""

    status: str
    winner: str | None  # A | B | tie
    reason: str
    done_reason: str | None = None
    prompt_tokens: int | None = None
    reply_tokens: int | None = None
    form: str | None = None

    def __post_init__(self) -> None:
        fits = self.winner is None if self.status != "scored" else self.winner in ("A", "B", "tie")
        if self.status not in STATUSES or not fits:
            raise ValueError(f"no choice: {self.status}, {self.winner}")


@dataclass(frozen=True)
class PairVerdict:
    """What became of a pair, and what was said of it in each order: tuned, base, tie, or the status of no choice.

    The winner is that of both orders. Two that differ make a tie; one without a choice leaves none.
    """

    winner: str | None
    tuned_first: str
    base_first: str
    reason: str


class ScoreFile(LineFile[Verdict]):
    """`scores.jsonl`"""

    kind = Verdict
    noun = "judgement"


class PairFile(LineFile[Choice]):
    """`pairs.jsonl`"""

    kind = Choice
    noun = "judgement"
