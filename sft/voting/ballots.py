"""Ballots: a record with the answers of two models, whose names the voter does not see."""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

from sft.errors import InputError
from sft.evaluation.compare import Evaluation, check_same_records, identity, read_evaluation
from sft.latest import followed
from sft.scoring.results import AnswerResult, RecordResult

# The name of the first run's base.
BASE = "base"

# The seed of the order in which the records are shown.
SEED = 123


@dataclass(frozen=True)
class Candidate:
    """A model with its answers, one for each record.

    Attributes:
        evaluation: the one that holds the answers.
        model: which of its models: `tuned` or `base`.
    """

    name: str
    evaluation: Evaluation
    model: str

    @property
    def weights(self) -> str:
        return self.evaluation.summary.models[self.model].sha256

    @cached_property
    def answers(self) -> list[AnswerResult]:
        return [row.of(self.model) for row in self.evaluation.rows]


@dataclass(frozen=True)
class Ballot:
    """The answers of two models to one record.

    Attributes:
        key: a hash of the question, the models and the answers. Another answer is another ballot.
        first, second: the places of the two models among the candidates. Which of them is the first
            does not depend on the order of the command line.
    """

    key: str
    record: RecordResult
    first: int
    second: int
    first_text: str
    second_text: str


@dataclass(frozen=True)
class Arena:
    """The models and their ballots.

    Attributes:
        ballots: in the order in which they are shown: each record once, before any comes again.
        alike: how many pairs of answers are the same text. They are not shown.
    """

    candidates: list[Candidate]
    ballots: list[Ballot]
    alike: int

    @cached_property
    def by_key(self) -> dict[str, Ballot]:
        return {ballot.key: ballot for ballot in self.ballots}

    @property
    def rows(self) -> list[RecordResult]:
        return self.candidates[0].evaluation.rows


def load_arena(runs: Sequence[str], with_base: bool = False) -> Arena:
    """Read the answers of evaluated runs, and pair them.

    Args:
        runs: one run is paired with its base.
        with_base: whether the first run's base takes part beside several runs.

    Raises:
        InputError: a run is given twice or not evaluated, the runs were not asked the same records,
            the base is missing, or all answers are the same.
    """
    folders = [followed(run).resolve() for run in runs]
    for number, folder in enumerate(folders):
        if folder in folders[:number]:
            raise InputError(f"RUN: {runs[number]} is given twice; expected different runs")

    evaluations = [read_evaluation(run, "RUN") for run in runs]
    for other in evaluations[1:]:
        check_same_records(evaluations[0], other, "RUN")
    names = short_names(runs)
    candidates = [
        Candidate(name, one, "tuned") for name, one in zip(names, evaluations, strict=True)
    ]
    if with_base or len(runs) == 1:
        if evaluations[0].summary.base is None:
            raise InputError(
                f"RUN: {runs[0]} was evaluated without its base; give a second run to compare with"
            )
        candidates.insert(0, Candidate(BASE, evaluations[0], "base"))

    ballots, alike = _ballots(candidates)
    if not ballots:
        raise InputError(f"RUN: all answers of {' and '.join(runs)} are the same; nothing to judge")
    return Arena(candidates, ballots, alike)


def short_names(runs: Sequence[str]) -> list[str]:
    """Return the runs without the folders in which all of them are."""
    parts = [Path(run).parts for run in runs]
    shared = 0
    while all(len(one) > shared + 1 and one[shared] == parts[0][shared] for one in parts):
        shared += 1
    return [str(Path(*one[shared:])) for one in parts] if len(runs) > 1 else list(runs)


def _ballots(candidates: Sequence[Candidate]) -> tuple[list[Ballot], int]:
    """Return the ballots in their order, and how many pairs of answers are the same."""
    pairs = list(combinations(range(len(candidates)), 2))
    records = list(range(len(candidates[0].answers)))
    random.Random(SEED).shuffle(records)

    ballots: list[Ballot] = []
    alike = 0
    for turn in range(len(pairs)):
        for place, record in enumerate(records):
            pair = pairs[(place + turn) % len(pairs)]
            texts = [candidates[model].answers[record].text for model in pair]
            if texts[0] is None or texts[1] is None:
                continue
            if texts[0] == texts[1]:
                alike += 1
            else:
                ballots.append(_ballot(candidates, record, pair))
    return ballots, alike


def _ballot(candidates: Sequence[Candidate], record: int, pair: tuple[int, int]) -> Ballot:
    sides = []
    for model in pair:
        text = candidates[model].answers[record].text or ""
        sides.append((candidates[model].weights, text, model))
    (one, one_text, first), (other, other_text, second) = sorted(sides)

    row = candidates[0].evaluation.rows[record]
    question = [row.turns_before, row.instruction, row.input]
    content = json.dumps([question, one, one_text, other, other_text])
    key = hashlib.sha256(content.encode()).hexdigest()[:32]
    return Ballot(key, row, first, second, one_text, other_text)


def judged(arena: Arena, ballot: Ballot) -> str | None:
    """Return what a judge prefers on a ballot: first, second or tie; None: it was not asked.

    A run and its base may have been judged as a pair. Otherwise the higher score wins, if one judge
    scored both.
    """
    sides = [arena.candidates[ballot.first], arena.candidates[ballot.second]]
    index = ballot.record.record - 1
    judges = [side.evaluation.summary.judge for side in sides]
    if judges[0] is None or identity(judges[0]) != identity(judges[1]):
        return None

    if judges[0].identity.get("mode") == "pairwise":
        if sides[0].evaluation is not sides[1].evaluation:
            return None
        row = sides[0].evaluation.rows[index]
        preferred = row.preferred or _winner_of_earlier(row)
        if preferred in (None, "tie"):
            return preferred
        return "first" if preferred == sides[0].model else "second"

    first, second = (side.answers[index].score for side in sides)
    if first is None or second is None:
        return None
    if first == second:
        return "tie"
    return "first" if first > second else "second"


def _winner_of_earlier(row: RecordResult) -> str | None:
    """Return the winner of a pair as an earlier version wrote it: it began the reason."""
    winner = (row.tuned.reason or "").partition(":")[0]
    return winner if winner in ("tuned", BASE, "tie") else None
