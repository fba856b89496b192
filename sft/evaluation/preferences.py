"""Preferences from a model's own answers: several are drawn for each record, and ranked.

The best of a record's answers becomes `chosen` and the worst `rejected`, for `objective=dpo`. A
record whose answers are all as good as each other gives no pair.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.data.records import Record
from sft.evaluation.answers import Answer
from sft.judge.ask import score_answers
from sft.judge.judge import Judge
from sft.judge.prompts import Question
from sft.metrics import BY_NAME


@dataclass(frozen=True)
class Ranked:
    """A record, the answers that were drawn for it, and their scores. An unknown score is None."""

    record: Record
    answers: list[Answer]
    scores: list[float | None]

    def pair(self) -> tuple[str, str] | None:
        """Return the best and the worst answer; None if all of them are equally good."""
        known = [
            (score, answer.text)
            for score, answer in zip(self.scores, self.answers, strict=True)
            if score is not None
        ]
        if not known:
            return None
        best, chosen = max(known, key=lambda item: item[0])
        worst, rejected = min(known, key=lambda item: item[0])
        return (chosen, rejected) if best > worst else None

    def as_preference(self) -> dict[str, Any] | None:
        """Return the pair as a record for `objective=dpo`; None if all answers are equally good."""
        pair = self.pair()
        if pair is None:
            return None
        record = self.record
        chosen, rejected = pair
        if record.before:
            return {
                "prompt": [turn._asdict() for turn in record.turns[:-1]],
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
            }
        asked = {"instruction": record.instruction, "input": record.input}
        return asked | {"chosen": chosen, "rejected": rejected}


def scores_by_metric(
    records: Sequence[Record], answers: Sequence[Sequence[Answer]], metric: str
) -> list[list[float | None]]:
    """Return how near each answer of each record comes to the expected one, by a metric's name."""
    compare = BY_NAME[metric].compare
    assert compare is not None
    return [
        [compare(answer.text, record.output) for answer in of_record]
        for record, of_record in zip(records, answers, strict=True)
    ]


def scores_by_judge(
    records: Sequence[Record], answers: Sequence[Sequence[Answer]], judge: Judge, path: Path
) -> list[list[float | None]]:
    """Return the judge's score of each answer; one that it gave before comes from the file."""
    questions = [
        Question(number, "tuned", record.instruction, record.input, record.output, answer.text)
        for number, (record, of_record) in enumerate(zip(records, answers, strict=True), 1)
        for answer in of_record
    ]
    found = iter(score_answers(judge, questions, path))
    return [[next(found).score for _ in of_record] for of_record in answers]
