"""The variables of the report's templates, from the summaries and the records.

Parts of a summary may be None. What depends on them is then empty.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.metrics import METRICS, TEXT_METRICS, Metric
from sft.report.charts import answer_curves, histogram, loss_curves
from sft.scoring.aggregate import not_asked_remarks, turns_remark, visible_remark
from sft.scoring.results import (
    CategoryMeans,
    EvaluationSummary,
    MeansWithout,
    MetricDifference,
    ModelSummary,
    RecordResult,
)
from sft.scoring.statistics import RELIABLE, TOO_FEW, Interval
from sft.summaries import RunSummary

# A row of a run's metrics.csv.
Row = Mapping[str, float | None]

MODELS = ("base", "tuned")

# The metrics by name, the judge's score first.
MEASURES = {
    metric.name: metric for metric in sorted(METRICS, key=lambda metric: metric.name != "score")
}


@dataclass(frozen=True)
class Mean:
    """A model's mean. Without an interval, `low` and `high` are the mean."""

    mean: float
    interval: Interval | None
    low: float
    high: float


@dataclass(frozen=True)
class HeadLine:
    """The means of both models by one measure, and their paired difference.

    Attributes:
        top: the end of the scale on which the means are drawn.
    """

    measure: Metric
    base: Mean | None
    tuned: Mean | None
    top: float
    against: MetricDifference | None


@dataclass(frozen=True)
class Line:
    """A line of a table: a number of each model."""

    label: str
    values: list[float | None]
    digits: int


@dataclass(frozen=True)
class Categories:
    """The means of each category by one measure, the weakest category first."""

    measure: Metric
    means: dict[str, CategoryMeans]


@dataclass(frozen=True)
class Excerpt:
    """A record in a table of the worst ones; `answer` is None for a training record."""

    record: int
    before: list[dict[str, str]]
    instruction: str
    input: str
    output: str
    value: float | None
    answer: str | None = None


def contents(
    summary: EvaluationSummary,
    rows: list[RecordResult],
    run: RunSummary | None,
    metrics: Sequence[Row],
) -> dict[str, Any]:
    """Return the variables of the templates."""
    lines = headline(summary)
    judged = any(line.measure.name == "score" for line in lines)
    shown = MEASURES["score" if judged else "chrf"]
    differences = [line.against for line in lines if line.against]
    models = summary.models
    known = summary.duplicates
    return {
        "summary": summary,
        "run": run,
        "name": _name(summary),
        "models": list(models),
        "headline": lines,
        "verdict": leading_verdict(summary, lines),
        "visible": visible_remark(summary.tuned_against_base, summary.records),
        "turns": turns_remark(summary.exact_match_by_turns),
        "too_few": TOO_FEW if any(one.interval is None for one in differences) else None,
        "not_asked": not_asked_remarks({name: model.not_asked for name, model in models.items()}),
        "further": list(_further(list(models.values()))),
        "losses": loss_curves(metrics),
        "answers": answer_curves(metrics),
        "parting": parting(metrics),
        "scores": histogram(
            {name: _values(rows, name, shown.name) for name in MODELS}, shown.top or 1, shown.label
        ),
        "scored_by": shown,
        "categories": _categories(summary),
        "without": list(_without(known.without if known else None, list(models))),
        "without_close": list(_without(known.without_close if known else None, list(models))),
        "statuses": _statuses(summary),
        "speeds": list(_speeds(summary)),
        "worst": list(_worst(summary, {row.record: row for row in rows})),
        "noisiest": _noisiest(summary),
    }


def _speeds(summary: EvaluationSummary) -> Iterator[tuple[str, str]]:
    """Yield for each model that answered in this evaluation how fast it did, and its MBU."""
    for name, model in summary.models.items():
        if speed := model.answering:
            shown = f"{speed.tokens_per_sec:,.0f}, {speed.mbu:.0%} of the memory's speed (MBU)"
            yield f"tokens per second, {name}", shown


def parting(metrics: Sequence[Row]) -> str | None:
    """Say when the validation loss was lowest and the answers best; None if one is not known.

    The lowest loss need not be where the answers are best.
    """
    losses = _by_epoch(metrics, "val/full_loss")
    parts = []
    for name in TEXT_METRICS:
        if means := _by_epoch(metrics, f"val/{name}"):
            best = max(means, key=lambda epoch: means[epoch])
            parts.append(f"{MEASURES[name].label} was best at epoch {best:g} ({means[best]:.3f})")
    if not losses or not parts:
        return None
    lowest = min(losses, key=lambda epoch: losses[epoch])
    text = f"the validation loss was lowest at epoch {lowest:g} ({losses[lowest]:.3f}); "
    return text + ", ".join(parts)


def _by_epoch(metrics: Sequence[Row], column: str) -> dict[float, float]:
    """Return the numbers of a column by their epoch, without those that are missing."""
    found = {}
    for row in metrics:
        epoch = row.get("epoch")
        value = row.get(column)
        if epoch is not None and value is not None:
            found[epoch] = value
    return found


def headline(summary: EvaluationSummary) -> list[HeadLine]:
    """Return a line for each measure that was taken."""
    against = summary.tuned_against_base or {}
    lines = []
    for measure in MEASURES.values():
        base = _mean(summary.base, measure.name) if summary.base else None
        tuned = _mean(summary.tuned, measure.name)
        highest = [mean.high for mean in (base, tuned) if mean]
        if highest:
            top = measure.top or max(highest) or 1
            lines.append(HeadLine(measure, base, tuned, top, against.get(measure.name)))
    return lines


def leading_verdict(summary: EvaluationSummary, lines: list[HeadLine]) -> str | None:
    """Return the page's first sentence: the verdict of its first sound difference.

    A difference of scores is sound if the judge can be relied on.
    """
    for line in lines:
        if line.against and (line.measure.name != "score" or _is_reliable(summary)):
            return f"By {line.measure.label}, {line.against.verdict}."
    return None


def _is_reliable(summary: EvaluationSummary) -> bool:
    """Return whether the judge passed its audit, if it had one, and scored enough answers."""
    judge = summary.judge
    if judge is None or judge.warning:
        return False
    return judge.audit is None or (judge.audit.auc or 0) >= RELIABLE


def _mean(model: ModelSummary, metric: str) -> Mean | None:
    """Return a model's mean with its interval; None if it was not taken."""
    mean = model.mean(metric)
    if mean is None:
        return None
    interval = model.interval(metric)
    if interval is not None and None in interval:
        interval = None
    low, high = interval or (mean, mean)
    return Mean(mean, interval, low, high)


def _name(summary: EvaluationSummary) -> str:
    """Return the base's short name, such as gpt2-medium; without a base, the model's own."""
    return Path((summary.base or summary.tuned).source).name


def _further(models: list[ModelSummary]) -> Iterator[Line]:
    """Yield the numbers without an interval that some model has."""
    lines = (
        Line("perplexity of the expected answers", [one.perplexity for one in models], 3),
        Line("answers that never came to an end", [one.never_stopped for one in models], 0),
        Line("answers that repeat themselves, as a share", [one.loops for one in models], 3),
        Line("tokens per answer", [one.tokens_per_answer for one in models], 1),
        Line("words per answer", [one.length.mean_words for one in models], 1),
        Line(
            "correlation of score with length",
            [one.length.score_correlation for one in models],
            2,
        ),
    )
    for line in lines:
        if any(value is not None for value in line.values):
            yield line


def _values(rows: list[RecordResult], model: str, metric: str) -> list[float]:
    found = []
    for row in rows:
        answer = row.base if model == "base" else row.tuned
        value = answer.value(metric) if answer else None
        if value is not None:
            found.append(value)
    return found


def _categories(summary: EvaluationSummary) -> Categories | None:
    """Return the means of each category.

    They are scores where there was a judge, and shares of exact matches otherwise.
    """
    measure = MEASURES["score" if summary.score_by_category else "exact_match"]
    means = summary.score_by_category or summary.exact_match_by_category
    if not means:
        return None

    # A category without a value comes last.
    def weakness(name: str) -> tuple[bool, float]:
        value = means[name].means.get("tuned")
        return value is None, value or 0

    return Categories(measure, {name: means[name] for name in sorted(means, key=weakness)})


def _without(found: MeansWithout | None, models: list[str]) -> Iterator[Line]:
    """Yield the means without the records that have a neighbour in the training split."""
    if found is None:
        return
    for measure in MEASURES.values():
        values = [(found.models.get(name) or {}).get(measure.name) for name in models]
        if any(value is not None for value in values):
            yield Line(measure.label, values, measure.digits)


def _statuses(summary: EvaluationSummary) -> list[str]:
    """Return the statuses of judgements without a score."""
    found: set[str] = set()
    for model in summary.models.values():
        found.update(model.judge.status if model.judge else {})
    return sorted(found - {"scored"})


def _worst(
    summary: EvaluationSummary, by_record: dict[int, RecordResult]
) -> Iterator[tuple[Metric, list[Excerpt]]]:
    """Yield each measure with the records that are worst by it."""
    for name, measure in MEASURES.items():
        found = []
        for number in summary.worst.get(name, []):
            if number in by_record:
                found.append(_excerpt(by_record[number], name))
        if found:
            yield measure, found


def _excerpt(row: RecordResult, metric: str) -> Excerpt:
    return Excerpt(
        row.record,
        row.before,
        row.instruction,
        row.input,
        row.output,
        value=row.tuned.value(metric),
        answer=row.tuned.text,
    )


def _noisiest(summary: EvaluationSummary) -> list[Excerpt]:
    """Return the training records with the highest loss."""
    found = []
    for row in summary.noisiest_training_records:
        content = row.content
        # Evaluations of early versions knew no conversations.
        before = content.get("before", [])
        found.append(
            Excerpt(
                row.record,
                before,
                content["instruction"],
                content["input"],
                content["output"],
                value=row.loss,
            )
        )
    return found
