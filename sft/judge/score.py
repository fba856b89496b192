"""The judge's part of an evaluation: which answers it is asked about, and what comes of it for rows and summary."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean as mean
from typing import Any

from sft.data.records import Record
from sft.errors import InputError
from sft.judge.ask import audit_questions, judge_all, judge_pairs
from sft.judge.judge import Judge
from sft.judge.prompts import Pair, Question
from sft.judge.verdicts import PairVerdict, Verdict
from sft.scoring.results import RecordResult
from sft.scoring.statistics import RELIABLE, auc, difference, verdict


def judge_answers(
    judge: Judge, rows: list[RecordResult], records: Sequence[Record], folder: Path
) -> dict[str, Any]:
    """Have the answers judged, one by one or in pairs as the config says; the rows take what came of it.

    Returns:
        What the summary says of the judge.
    """
    unasked = {row.record for row in rows if not row.tuned.asked}
    questions = audit_questions(records, judge.config.audit, judge.config.seed, unasked)
    verdicts = (
        judge_all(judge, questions, folder / "scores.jsonl", "audit of the judge")
        if questions
        else []
    )
    audit = _audit(list(zip(questions, verdicts, strict=True))) if questions else None
    found = (
        _pairs(judge, rows, folder)
        if judge.config.mode == "pairwise"
        else _scores(judge, rows, folder)
    )
    return judge.identity | {"forms": dict(judge.forms), "audit": audit, "pairwise": None} | found


def _scores(judge: Judge, rows: list[RecordResult], folder: Path) -> dict[str, Any]:
    models = ["tuned", "base"] if rows[0].base else ["tuned"]
    questions = [_question(row, name) for row in rows for name in models if row.of(name).asked]
    verdicts = judge_all(judge, questions, folder / "scores.jsonl")
    for question, found in zip(questions, verdicts, strict=True):
        answer = rows[question.record - 1].of(question.target)
        answer.status = found.status
        answer.score = found.score
        answer.reason = found.reason
    asked = {name: [row.of(name) for row in rows if row.of(name).asked] for name in models}
    return _coverage(
        judge,
        {name: [part.score is not None for part in parts] for name, parts in asked.items()},
    )


def _question(row: RecordResult, model: str) -> Question:
    return Question(
        row.record, model, row.instruction, row.input, row.output, str(row.of(model).text)
    )


def _coverage(judge: Judge, judged: dict[str, list[bool]]) -> dict[str, Any]:
    """The share of the answers that were judged, of each model, and a warning if one is too low."""
    shares, needed = (
        {name: mean(found) for name, found in judged.items()},
        judge.config.min_coverage,
    )
    name, share = min(shares.items(), key=lambda item: item[1])
    warning = f"Only {share:.0%} of the {name} answers could be judged, less than judge.min_coverage={needed:g}"
    return {"coverage": shares, "warning": warning if share < needed else None}


def _audit(found: list[tuple[Question, Verdict]]) -> dict[str, Any]:
    """Can this judge tell the expected answer from none and from another record's?"""
    scored = [
        (question.target, given.score) for question, given in found if given.score is not None
    ]
    scores = {
        name: [score for target, score in scored if target == name]
        for name in ("expected", "empty", "other")
    }
    area = auc(scores["expected"], scores["empty"] + scores["other"])
    return {
        "records": len(scores["expected"]),
        "means": {target: mean(values) if values else None for target, values in scores.items()},
        "auc": area,
        "verdict": _trust(area),
    }


def _trust(area: float | None) -> str:
    if area is None:
        return (
            "The judge could not be tested: it scored too few of the answers whose worth is known."
        )
    told = f"an expected answer gets more than a wrong or an empty one in {area:.0%} of the cases, ties counting half."
    if area >= 0.95:
        return f"This judge can tell right from wrong: {told}"
    return (
        f"Do not rely on this judge: {told}"
        if area < RELIABLE
        else f"This judge makes mistakes: {told}"
    )


def _pairs(judge: Judge, rows: list[RecordResult], folder: Path) -> dict[str, Any]:
    rows = [row for row in rows if row.tuned.asked and row.of("base").asked]
    if not rows:
        raise InputError(
            "judge.mode: pairwise has no record that both models can be asked; leave it out"
        )
    pairs = [
        Pair(
            row.record,
            row.instruction,
            row.input,
            row.output,
            str(row.tuned.text),
            str(row.of("base").text),
        )
        for row in rows
    ]
    verdicts = judge_pairs(judge, pairs, folder / "pairs.jsonl")
    for row, one in zip(rows, verdicts, strict=True):
        row.tuned.reason = f"{one.winner or 'not judged'}: {one.reason}"
    judged = [one for one in verdicts if one.winner is not None]
    found = _pairwise(judged) if judged else {}
    coverage = _coverage(judge, {"tuned": [one.winner is not None for one in verdicts]})
    return coverage | {"pairwise": {"unjudged": len(verdicts) - len(judged)} | found}


def _pairwise(judged: Sequence[PairVerdict]) -> dict[str, Any]:
    """Wins of the tuned model, and how often the place in the prompt decided: the winner stood first, or second, both
    times."""
    points = [{"tuned": 1.0, "base": -1.0, "tie": 0.0}[str(one.winner)] for one in judged]
    apart = difference(points, [0.0] * len(points))
    assert apart is not None
    orders = [(one.tuned_first, one.base_first) for one in judged]
    first, second = orders.count(("tuned", "base")), orders.count(("base", "tuned"))
    bias = (first + second) / len(judged)
    counts = f"{apart.wins} won, {apart.ties} tied, {apart.losses} lost; in {bias:.0%} the place in the prompt decided"
    return asdict(apart) | {
        "position_bias": bias,
        "first_preferred": first,
        "second_preferred": second,
        "verdict": f"Side by side, {verdict(apart, 'tuned', 'base')} ({counts}).",
    }


def check_judged(summary: dict[str, Any], folder: Path) -> None:
    """Raises InputError if a judge was asked and judged no answer of the tuned model."""
    judge, tuned = summary["judge"], summary["tuned"]["judge"]
    if judge is None or judge["coverage"]["tuned"] > 0:
        return
    status = (
        f" ({', '.join(f'{name} {count}' for name, count in tuned['status'].items())})"
        if tuned
        else ""
    )
    raise InputError(
        f"judge: none of the tuned model's answers has been judged{status}; why stands in {folder}, in scores.jsonl or "
        "pairs.jsonl; those that ended in timeout, error or cut (raise judge.max_tokens) are asked again by the same "
        "command"
    )
