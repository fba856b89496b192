"""The judge's part of an evaluation: which answers it is asked about, and what comes of it for rows and summary."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean as mean
from typing import Any

from sft.config import InputError
from sft.data.records import Record
from sft.evaluation.aggregate import Row
from sft.evaluation.judge import Judge
from sft.evaluation.judging import audit_questions, judge_all, judge_pairs
from sft.evaluation.rubric import Pair, Question
from sft.evaluation.statistics import auc, difference, verdict
from sft.evaluation.verdicts import PairVerdict, Verdict


def judge_answers(judge: Judge, rows: list[Row], records: Sequence[Record], folder: Path) -> dict[str, Any]:
    """Have the answers judged, one by one or in pairs as the config says; the rows take what came of it.

    Returns:
        What the summary says of the judge.
    """
    found = _pairs(judge, rows, folder) if judge.config.mode == "pairwise" else _scores(judge, rows, records, folder)
    return judge.identity | {"audit": None, "pairwise": None} | found


def _scores(judge: Judge, rows: list[Row], records: Sequence[Record], folder: Path) -> dict[str, Any]:
    models = [name for name in ("tuned", "base") if rows[0][name]]
    questions = [_question(row, name) for row in rows for name in models]
    audit = audit_questions(records, judge.config.audit, judge.config.seed)
    verdicts = judge_all(judge, questions + audit, folder / "scores.jsonl")
    for question, found in zip(questions, verdicts, strict=False):
        row = rows[question.record - 1]
        row[question.target] |= {key: asdict(found)[key] for key in ("status", "score", "reason")}
    scored = [found.score is not None for found in verdicts[: len(questions)]]
    audited = zip(audit, verdicts[len(questions) :], strict=True)
    return {**_coverage(judge, scored), "audit": _audit(list(audited)) if audit else None}


def _question(row: Row, model: str) -> Question:
    return Question(row["record"], model, row["instruction"], row["input"], row["output"], row[model]["text"])


def _coverage(judge: Judge, judged: Sequence[bool]) -> dict[str, Any]:
    share, needed = mean(judged), judge.config.min_coverage
    warning = f"only {share:.0%} of the answers could be judged, less than judge.min_coverage={needed:g}"
    return {"coverage": share, "warning": warning if share < needed else None}


def _audit(found: list[tuple[Question, Verdict]]) -> dict[str, Any]:
    """Can this judge tell the expected answer from none and from another record's?"""
    scored = [(question.target, given.score) for question, given in found if given.score is not None]
    scores = {name: [score for target, score in scored if target == name] for name in ("expected", "empty", "other")}
    area = auc(scores["expected"], scores["empty"] + scores["other"])
    return {
        "records": len({question.record for question, _ in found}),
        "means": {target: mean(values) if values else None for target, values in scores.items()},
        "auc": area,
        "verdict": _trust(area),
    }


def _trust(area: float | None) -> str:
    if area is None:
        return "The judge could not be tested: it scored too few of the answers whose worth is known."
    told = f"it puts an expected answer above a wrong or empty one in {area:.0%} of the cases."
    if area >= 0.95:
        return f"This judge can tell right from wrong: {told}"
    return f"Do not rely on this judge: {told}" if area < 0.8 else f"This judge makes mistakes: {told}"


def _pairs(judge: Judge, rows: list[Row], folder: Path) -> dict[str, Any]:
    pairs = [
        Pair(row["record"], row["instruction"], row["input"], row["output"], row["tuned"]["text"], row["base"]["text"])
        for row in rows
    ]
    verdicts = judge_pairs(judge, pairs, folder / "pairs.jsonl")
    for row, one in zip(rows, verdicts, strict=True):
        row["pair"] = {"winner": one.winner, "reason": one.reason}
    judged = [one for one in verdicts if one.winner is not None]
    found = _pairwise(judged) if judged else {}
    return {**_coverage(judge, [one.winner is not None for one in verdicts])} | {
        "pairwise": {"unjudged": len(verdicts) - len(judged)} | found
    }


def _pairwise(judged: Sequence[PairVerdict]) -> dict[str, Any]:
    """Wins of the tuned model, and how often the place in the prompt decided: the winner stood first, or second, both
    times."""
    points = [{"tuned": 1.0, "base": -1.0, "tie": 0.0}[str(one.winner)] for one in judged]
    apart = difference(points, [0.0] * len(points))
    assert apart is not None
    orders = [(one.tuned_first, one.base_first) for one in judged]
    first, second = orders.count(("tuned", "base")), orders.count(("base", "tuned"))
    return asdict(apart) | {
        "position_bias": (first + second) / len(judged),
        "first_preferred": first,
        "second_preferred": second,
        "verdict": f"side by side, {verdict(apart, 'tuned', 'base')}",
    }


def check_judged(summary: dict[str, Any], folder: Path) -> None:
    """Raises InputError if a judge was asked and judged nothing."""
    judge, tuned = summary["judge"], summary["tuned"]["judge"]
    if judge is None or judge["coverage"] > 0:
        return
    status = f" ({', '.join(f'{name} {count}' for name, count in tuned['status'].items())})" if tuned else ""
    raise InputError(
        f"judge: none of the answers has been judged{status}; why stands in {folder}, in scores.jsonl or pairs.jsonl; "
        "those that ended in timeout or error are asked again by the same command"
    )
