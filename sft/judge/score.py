"""The judge's part of an evaluation: which answers it is asked about, and what the numbers say."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean as mean

from sft.data.records import Record, transcript
from sft.errors import InputError
from sft.judge.ask import audit_questions, compare_answers, score_answers
from sft.judge.judge import Judge
from sft.judge.keep import Comparison
from sft.judge.prompts import Pair, Question
from sft.scoring.length import length_controlled
from sft.scoring.results import (
    Audit,
    EvaluationSummary,
    JudgeSummary,
    Pairwise,
    RecordResult,
    WinRate,
)
from sft.scoring.statistics import (
    RELIABLE,
    Interval,
    auc,
    auc_interval,
    difference,
    interval,
    verdict,
)

# From this AUC of its audit on, a judge is said to tell right from wrong.
GOOD = 0.95


def judge_answers(
    judge: Judge, rows: list[RecordResult], records: Sequence[Record], folder: Path
) -> JudgeSummary:
    """Have the answers judged, one by one or in pairs as the config says, and note it in the rows.

    Returns:
        The judge's part of the summary.
    """
    audit = _audit(judge, rows, records, folder)
    pairwise = None
    if judge.config.mode == "pairwise":
        pairwise, coverage = _compare(judge, rows, folder)
    else:
        coverage = _score(judge, rows, folder)
    return JudgeSummary(
        identity=judge.identity,
        forms=dict(judge.forms),
        audit=audit,
        pairwise=pairwise,
        coverage=coverage,
        warning=_coverage_warning(coverage, judge.config.min_coverage),
    )


def _audit(
    judge: Judge, rows: list[RecordResult], records: Sequence[Record], folder: Path
) -> Audit | None:
    """Test whether the judge can tell the expected answer from an empty and from a wrong one.

    Returns:
        None for judge.audit=0, or if no record could be drawn.
    """
    unasked = {row.record for row in rows if not row.tuned.asked}
    questions = audit_questions(records, judge.config.audit, judge.config.seed, unasked)
    if not questions:
        return None

    found = score_answers(judge, questions, folder / "scores.jsonl", "audit of the judge")
    scores: dict[str, list[float]] = {"expected": [], "empty": [], "other": []}
    for question, judgement in zip(questions, found, strict=True):
        if judgement.score is not None:
            scores[question.target].append(judgement.score)

    return audit_of(scores)


def audit_of(scores: dict[str, list[float]]) -> Audit:
    """Return what the scores of `expected`, `empty` and `other` answers say of a judge."""
    right = scores["expected"]
    wrong = scores["other"] + scores["empty"]
    area = auc(right, wrong)
    span = auc_interval(area, len(right), len(wrong)) if area is not None else None
    by_kind = {kind: auc(right, scores[kind]) for kind in ("other", "empty")}
    return Audit(
        records=len(right),
        means={target: mean(values) if values else None for target, values in scores.items()},
        auc=area,
        auc_by_kind=by_kind,
        interval=span,
        verdict=_trust(area, span, by_kind),
    )


def _trust(area: float | None, span: Interval | None, by_kind: dict[str, float | None]) -> str:
    """Return the audit's AUC in words."""
    if area is None or span is None:
        return (
            "The judge could not be tested: it scored too few of the answers whose worth is known."
        )
    if span[0] <= 0.5 <= span[1]:
        lead = "Do not rely on this judge: it is no better than chance"
    elif area >= GOOD:
        lead = "This judge can tell right from wrong"
    elif area >= RELIABLE:
        lead = "This judge makes mistakes"
    else:
        lead = "Do not rely on this judge"

    # A judge may see that an answer is empty, and not that one is wrong.
    kinds = []
    for kind, name in (("other", "wrong"), ("empty", "empty")):
        against = by_kind[kind]
        if against is not None:
            kinds.append(f"{against:.0%} against {name} answers")
    return (
        f"{lead}. An expected answer gets more than a wrong or an empty one in "
        f"{_share(area, span)} of the cases, ties counting half; {', '.join(kinds)}."
    )


def _score(judge: Judge, rows: list[RecordResult], folder: Path) -> dict[str, float]:
    """Have each answer scored, and note the scores in the rows.

    Returns:
        The share of judged answers of each model.
    """
    models = ["tuned", "base"] if rows[0].base else ["tuned"]
    questions: list[Question] = []
    for row in rows:
        for name in models:
            if row.of(name).asked:
                text = str(row.of(name).text)
                task = (row.instruction, row.input, row.output)
                before = transcript(row.turns_before)
                questions.append(Question(row.record, name, *task, text, before))

    found = score_answers(judge, questions, folder / "scores.jsonl")
    judged: dict[str, list[bool]] = {name: [] for name in models}
    for question, judgement in zip(questions, found, strict=True):
        answer = rows[question.record - 1].of(question.target)
        answer.status = judgement.status
        answer.score = judgement.score
        answer.reason = judgement.reason
        judged[question.target].append(judgement.score is not None)
    return {name: mean(found) for name, found in judged.items()}


def _coverage_warning(coverage: dict[str, float], needed: float) -> str | None:
    """Return a warning if the share of judged answers of a model is too low."""
    name, share = min(coverage.items(), key=lambda item: item[1])
    if share >= needed:
        return None
    return (
        f"Only {share:.0%} of the {name} answers could be judged, less than "
        f"judge.min_coverage={needed:g}"
    )


def _compare(
    judge: Judge, rows: list[RecordResult], folder: Path
) -> tuple[Pairwise, dict[str, float]]:
    """Have the answers of both models compared, and note winners and reasons in the rows.

    Returns:
        The comparison, and the share of judged pairs.
    """
    rows = [row for row in rows if row.tuned.asked and row.of("base").asked]
    if not rows:
        raise InputError(
            "judge.mode: pairwise has no record that both models can be asked; leave it out"
        )
    pairs: list[Pair] = []
    for row in rows:
        task = (row.instruction, row.input, row.output)
        texts = (str(row.tuned.text), str(row.of("base").text))
        pairs.append(Pair(row.record, *task, *texts, transcript(row.turns_before)))

    found = compare_answers(judge, pairs, folder / "pairs.jsonl")
    for row, one in zip(rows, found, strict=True):
        row.preferred = one.winner
        row.tuned.reason = f"{one.winner or 'not judged'}: {one.reason}"

    judged: list[Comparison] = []
    longer: list[float] = []
    for pair, one in zip(pairs, found, strict=True):
        if one.winner is not None:
            judged.append(one)
            longer.append(len(pair.tuned) - len(pair.base))
    unjudged = len(found) - len(judged)
    return _pairwise(judged, longer, unjudged), {"tuned": len(judged) / len(found)}


def _pairwise(judged: Sequence[Comparison], longer: Sequence[float], unjudged: int) -> Pairwise:
    """Return the wins of the tuned model, and the judge's position bias.

    Args:
        longer: by how many characters the tuned model's answer is longer, for each pair.
    """
    if not judged:
        return Pairwise(unjudged=unjudged)
    points = [{"tuned": 1.0, "base": -1.0, "tie": 0.0}[str(one.winner)] for one in judged]
    apart = difference(points, [0.0] * len(points))
    assert apart is not None
    shares = [(point + 1) / 2 for point in points]
    at_equal_length = length_controlled(shares, longer)

    orders = [(one.tuned_first, one.base_first) for one in judged]
    first = orders.count(("tuned", "base"))
    second = orders.count(("base", "tuned"))
    bias = (first + second) / len(judged)
    counts = (
        f"{apart.wins} won, {apart.ties} tied, {apart.losses} lost; in {bias:.0%} the place in the "
        "prompt decided"
    )
    plain = WinRate(mean(shares), interval(shares, shares=True))
    verdicts = [f"Side by side, {verdict(apart, 'tuned', 'base')} ({counts})."]
    if at_equal_length is not None:
        verdicts.append(
            f"The tuned model wins {_share(plain.rate, plain.interval)} of the pairs, ties "
            "counting half, and at equal lengths "
            f"{_share(at_equal_length.rate, at_equal_length.interval)}."
        )
    return Pairwise(
        unjudged=unjudged,
        **vars(apart),
        win_rate=plain,
        length_controlled=at_equal_length,
        position_bias=bias,
        first_preferred=first,
        second_preferred=second,
        verdict=" ".join(verdicts),
    )


def _share(rate: float, span: Interval | None) -> str:
    inside = f" (95% interval {span[0]:.0%} to {span[1]:.0%})" if span else ""
    return f"{rate:.0%}{inside}"


def check_judged(summary: EvaluationSummary, folder: Path) -> None:
    """Raise InputError if a judge was asked and judged no answer of the tuned model."""
    judge = summary.judge
    if judge is None or judge.coverage["tuned"] > 0:
        return
    counts = ""
    if tuned := summary.tuned.judge:
        status = ", ".join(f"{name} {count}" for name, count in tuned.status.items())
        counts = f" ({status})"
    raise InputError(
        f"judge: none of the tuned model's answers has been judged{counts}; the reasons are in "
        f"{folder}, in scores.jsonl or pairs.jsonl. Give the same command again to repeat those "
        "with timeout, error or cut (for cut, raise judge.max_tokens)"
    )
