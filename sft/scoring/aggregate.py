"""From the results on each record to the numbers of a model, and of the difference between two."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean as mean
from statistics import median
from typing import Any

from sft.data.loops import repeats_itself
from sft.data.neighbours import CLOSE
from sft.errors import counted
from sft.metrics import BY_NAME, METRICS, TEXT_METRICS, Metric, spaced
from sft.scoring.results import (
    AnswerLength,
    AnswerResult,
    CategoryMeans,
    Duplicates,
    JudgedScores,
    MeansWithout,
    MetricDifference,
    RecordResult,
)
from sft.scoring.statistics import (
    difference,
    interval,
    rank_correlation,
    verdict,
    visible_share,
    visible_text,
)


def numbers(answers: Sequence[AnswerResult]) -> dict[str, Any]:
    """Return a model's means over the records, with their 95% intervals.

    The loss is a mean over tokens. The keys are those of `ModelSummary`.
    """
    loss = mean_loss(answers)
    asked = [answer for answer in answers if answer.asked]
    return {
        "loss": loss,
        # e^710 is too large for a double.
        "perplexity": math.exp(min(loss, 700)),
        "metrics": {metric: mean(_values(answers, metric)) for metric in TEXT_METRICS},
        "intervals": {metric: _interval(answers, metric) for metric in (*TEXT_METRICS, "loss")},
        "not_asked": not_asked(answers),
        "never_stopped": sum(answer.finish_reason == "length" for answer in asked),
        "loops": mean(repeats_itself(answer.text or "") for answer in asked),
        "tokens_per_answer": mean(answer.tokens for answer in asked if answer.tokens is not None),
        "judge": judged(asked),
        "length": _length(asked),
    }


def not_asked(answers: Sequence[AnswerResult]) -> dict[str, int]:
    """Return how many records the model was not asked, by reason."""
    reasons = Counter(str(answer.status) for answer in answers if not answer.asked)
    return dict(sorted(reasons.items()))


def judged(asked: Sequence[AnswerResult]) -> JudgedScores | None:
    """Summarise the judge's scores, and count the answers without one; None without a judge."""
    status = Counter(answer.status for answer in asked)
    if set(status) == {None}:
        return None
    scores = _values(asked, "score")
    return JudgedScores(
        mean=mean(scores) if scores else None,
        median=median(scores) if scores else None,
        max=max(scores, default=None),
        min=min(scores, default=None),
        interval=interval(scores) if scores else None,
        scored=len(scores),
        of=len(asked),
        status=dict(sorted((str(name), count) for name, count in status.items())),
    )


def _length(asked: Sequence[AnswerResult]) -> AnswerLength:
    """Return the mean words of an answer, and their Spearman correlation with the judge's score."""
    words = [len(spaced(answer.text or "").split()) for answer in asked]
    scored = [count for answer, count in zip(asked, words, strict=True) if answer.score is not None]
    return AnswerLength(mean(words), rank_correlation(_values(asked, "score"), scored))


def _values(answers: Sequence[AnswerResult], metric: str) -> list[float]:
    """Return the values of a metric where it has one."""
    values = (answer.value(metric) for answer in answers)
    return [value for value in values if value is not None]


def mean_loss(answers: Sequence[AnswerResult]) -> float:
    """Return the mean loss over all tokens of the expected answers; NaN if there are none."""
    tokens = sum(answer.loss_tokens for answer in answers)
    total = math.fsum(
        answer.loss * answer.loss_tokens for answer in answers if answer.loss is not None
    )
    return total / tokens if tokens else math.nan


def _interval(answers: Sequence[AnswerResult], metric: str) -> tuple[float, float] | None:
    weights = None
    if metric == "loss":
        answers = [answer for answer in answers if answer.loss_tokens]
        weights = [float(answer.loss_tokens) for answer in answers]
    return interval(_values(answers, metric), weights, shares=metric in TEXT_METRICS)


def differences(
    first: Sequence[AnswerResult], second: Sequence[AnswerResult], names: tuple[str, str]
) -> dict[str, MetricDifference]:
    """Compare two models on the same records, metric by metric.

    A metric is left out if the two have no record with it in common. The loss is left out too if
    the models' tokenizers encode the expected answers differently.

    Args:
        first, second: the results of each model, record by record.
        names: the models' names in the verdict.
    """
    found = {}
    for metric in METRICS:
        one: list[float] = []
        other: list[float] = []
        tokens: list[tuple[int, int]] = []
        for left, right in zip(first, second, strict=True):
            values = left.value(metric.name), right.value(metric.name)
            if values[0] is not None and values[1] is not None:
                one.append(values[0])
                other.append(values[1])
                tokens.append((left.loss_tokens, right.loss_tokens))

        weights = None
        if metric.name == "loss":
            if any(left != right for left, right in tokens):
                continue
            weights = [float(count) for count, _ in tokens]
        apart = difference(one, other, weights, metric.lower_is_better)
        if apart is not None:
            words = verdict(apart, *names, metric.lower_is_better)
            found[metric.name] = MetricDifference(len(one), **vars(apart), verdict=words)
    return found


def visible_remark(compared: dict[str, MetricDifference] | None, records: int | None) -> str | None:
    """Return what the records could have shown, given the differences between two models.

    Without two models, the remark is on two that answer 30% of the records differently. None:
    nothing is known.
    """
    visible = {}
    for name, one in (compared or {}).items():
        if one.visible:
            visible[BY_NAME[name].label] = one.visible
    if not visible and records:
        visible = {"exact match, where 30% are answered differently": visible_share(records)}
    return visible_text(visible) if visible else None


# The groups of `by_turns`.
SINGLE = "single question"
SEVERAL = "follow-up question"


def by_category(
    rows: Sequence[RecordResult], models: Sequence[str], metric: str
) -> dict[str, CategoryMeans] | None:
    """Return each category's number of records and each model's mean.

    Only records that have the metric for every model count. None if no category has such a record.
    """
    return _by_group(rows, models, metric, lambda row: row.category) or None


def by_turns(
    rows: Sequence[RecordResult], models: Sequence[str], metric: str
) -> dict[str, CategoryMeans] | None:
    """Return the same for single questions and for those that follow another; None unless both."""

    def turns(row: RecordResult) -> str:
        return SEVERAL if any(role == "user" for role, _ in row.turns_before) else SINGLE

    found = _by_group(rows, models, metric, turns)
    return found if len(found) == 2 else None


def turns_remark(found: dict[str, CategoryMeans] | None) -> str | None:
    """Say the exact match of single questions, and of those that follow another."""
    if found is None:
        return None
    parts = []
    for kind, group in found.items():
        means = ", ".join(f"{name} {value:.3f}" for name, value in group.means.items())
        parts.append(f"{counted(group.records, kind)}: {means}")
    return f"exact match of {'; of '.join(parts)}"


def _by_group(
    rows: Sequence[RecordResult],
    models: Sequence[str],
    metric: str,
    group_of: Callable[[RecordResult], str | None],
) -> dict[str, CategoryMeans]:
    groups = defaultdict(list)
    for row in rows:
        measured = all(row.of(model).value(metric) is not None for model in models)
        name = group_of(row)
        if name is not None and measured:
            groups[name].append(row)

    found = {}
    for name, group in sorted(groups.items()):
        means: dict[str, float | None] = {}
        for model in models:
            means[model] = mean(_values([row.of(model) for row in group], metric))
        found[name] = CategoryMeans(len(group), means)
    return found


def without_duplicates(rows: Sequence[RecordResult], models: Sequence[str]) -> Duplicates:
    """Count the records that have a neighbour in another split, and return means without them."""
    kinds = Counter(row.duplicate for row in rows)
    close = [row.duplicate == "exact" or (row.similarity or 0) >= CLOSE for row in rows]
    no_neighbour = [row for row in rows if row.duplicate is None]
    none_close = [row for row, is_close in zip(rows, close, strict=True) if not is_close]
    return Duplicates(
        exact=kinds["exact"],
        near=kinds["near"],
        close=sum(close),
        without=_means(no_neighbour, models),
        without_close=_means(none_close, models),
    )


def _means(rows: Sequence[RecordResult], models: Sequence[str]) -> MeansWithout:
    """Return each model's mean of each metric over these records."""
    found: dict[str, dict[str, float | None] | None] = {}
    for model in models:
        answers = [row.of(model) for row in rows]
        found[model] = {m.name: _mean(answers, m) for m in METRICS} if rows else None
    return MeansWithout(len(rows), found)


def _mean(answers: Sequence[AnswerResult], metric: Metric) -> float | None:
    if metric.name == "loss":
        return mean_loss(answers)
    values = _values(answers, metric.name)
    return mean(values) if values else None


def worst(rows: Sequence[RecordResult], count: int = 20) -> dict[str, list[int]]:
    """Return for each metric the records on which the tuned model is worst, the worst first."""
    found = {}
    for metric in METRICS:
        measured = []
        for row in rows:
            value = row.tuned.value(metric.name)
            if value is not None:
                measured.append((value, row.record))
        measured.sort(key=lambda pair: pair[0], reverse=metric.lower_is_better)
        if measured:
            found[metric.name] = [record for _, record in measured[:count]]
    return found


def not_asked_remarks(not_asked: dict[str, dict[str, int]]) -> list[str]:
    """Return a remark for each model that was not asked every record.

    Args:
        not_asked: the counts of each model, by reason. If they are equal, one remark is for both.
    """
    counts: dict[str, dict[str, int]]
    counts = {name: not_asked[name] for name in ("tuned", "base") if name in not_asked}
    if len(counts) == 2 and counts["tuned"] == counts["base"]:
        counts = {"either model": counts["tuned"]}
    return [
        f"not asked of {name}: {not_asked_text(found)}; left out of all numbers"
        for name, found in counts.items()
        if found
    ]


def not_asked_text(counts: dict[str, int]) -> str:
    """Return the counts in words: "2 records, whose prompt is too long"."""
    texts = []
    for status, count in counts.items():
        texts.append(f"{counted(count, 'record')}, whose prompt is {status}")
    return "; ".join(texts)
