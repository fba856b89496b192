"""The variables of the report's templates, from the summaries and the records.

Any part of a summary may be absent. What depends on it is then empty.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sft.metrics import METRICS, TEXT_METRICS, Metric
from sft.report.charts import answer_curves, histogram, loss_curves
from sft.scoring.aggregate import not_asked_remarks, visible_remark
from sft.scoring.statistics import RELIABLE, TOO_FEW

Json = dict[str, Any]
MODELS = ("base", "tuned")


# The metrics by name, the judge's score first.
MEASURES = {
    metric.name: metric for metric in sorted(METRICS, key=lambda metric: metric.name != "score")
}

# Numbers without an interval: the label, the keys in a model's part of the summary, the digits.
FURTHER = (
    ("perplexity of the expected answers", ("perplexity",), 3),
    ("answers that never came to an end", ("never_stopped",), 0),
    ("answers that repeat themselves, as a share", ("loops",), 3),
    ("tokens per answer", ("tokens_per_answer",), 1),
    ("words per answer", ("length", "mean_words"), 1),
    ("correlation of score with length", ("length", "score_correlation"), 2),
)

# Keys of the summary's part on the judge that have a place of their own on the page. The others say
# which judge it was.
JUDGED = ("coverage", "warning", "audit", "pairwise", "forms", "labels")


def contents(summary: Json, rows: list[Json], run: Json | None, metrics: list[Json]) -> Json:
    """Return the variables of the templates."""
    lines = headline(summary)
    judged = any(line["measure"].name == "score" for line in lines)
    shown = MEASURES["score" if judged else "chrf"]

    verdict = None
    for line in lines:
        if _may_lead(line, summary):
            verdict = f"By {line['measure'].label}, {line['against']['verdict']}."
            break

    no_interval = any(
        "interval" in line["against"] and not line["against"]["interval"] for line in lines
    )
    noisiest = summary.get("noisiest_training_records") or []
    judge = _dict(summary, "judge")
    return {
        "summary": summary,
        "run": run,
        "name": _name(summary),
        "models": [name for name in MODELS if summary.get(name)],
        "headline": lines,
        "verdict": verdict,
        "visible": visible_remark(_dict(summary, "tuned_against_base"), summary["records"]),
        "too_few": TOO_FEW if no_interval else None,
        "not_asked": not_asked_remarks(
            {name: _dict(summary, name, "not_asked") for name in MODELS if summary.get(name)}
        ),
        "further": list(_further(summary)),
        "losses": loss_curves(metrics),
        "answers": answer_curves(metrics),
        "parting": parting(metrics),
        "scores": histogram(
            {name: _values(rows, name, shown.name) for name in MODELS}, shown.top or 1, shown.label
        ),
        "scored_by": shown,
        "categories": _categories(summary),
        "without": list(_without_duplicates(summary, "without")),
        "without_close": list(_without_duplicates(summary, "without_close")),
        "statuses": _statuses(summary),
        "identity": {key: value for key, value in judge.items() if key not in JUDGED},
        "worst": list(_worst(summary, {row["record"]: row for row in rows})),
        "noisiest": [row | {"value": row.get("loss")} for row in noisiest],
    }


def parting(metrics: list[Json]) -> str | None:
    """Say when the validation loss was lowest and the answers best; None if one is not known.

    The lowest loss need not be where the answers are best.
    """
    losses = {row["epoch"]: row["val/full_loss"] for row in metrics if row.get("val/full_loss")}
    parts = []
    for name in TEXT_METRICS:
        taken = [(row["epoch"], row.get(f"val/{name}")) for row in metrics]
        means = {epoch: value for epoch, value in taken if value is not None}
        if means:
            best = max(means, key=lambda epoch: means[epoch])
            parts.append(f"{MEASURES[name].label} was best at epoch {best:g} ({means[best]:.3f})")
    if not losses or not parts:
        return None
    lowest = min(losses, key=lambda epoch: losses[epoch])
    text = f"the validation loss was lowest at epoch {lowest:g} ({losses[lowest]:.3f}); "
    return text + ", ".join(parts)


def _dict(values: Json | None, *keys: str) -> Json:
    """Return a dict within dicts; an empty one if it, or one on the way, is absent."""
    for key in keys:
        values = (values or {}).get(key)
    return values or {}


def headline(summary: Json) -> list[Json]:
    """Return a line for each measure that was taken.

    A line holds the means and intervals of both models, and their paired difference.
    """
    lines = []
    for measure in MEASURES.values():
        models = {name: _mean(_dict(summary, name), measure.name) for name in MODELS}
        found = [value for value in models.values() if value]
        if found:
            top = measure.top or max(value["high"] for value in found) or 1
            against = _dict(summary, "tuned_against_base", measure.name)
            lines.append({"measure": measure, **models, "top": top, "against": against})
    return lines


def _may_lead(line: Json, summary: Json) -> bool:
    """Return whether the page may begin with this line's difference.

    One of scores may, if the judge can be relied on.
    """
    if not line["against"].get("verdict"):
        return False
    if line["measure"].name != "score":
        return True
    audit = _dict(summary, "judge", "audit")
    failed = bool(audit) and (audit.get("auc") or 0) < RELIABLE
    return not failed and not _dict(summary, "judge").get("warning")


def _mean(model: Json, key: str) -> Json | None:
    """Return a model's mean with its interval; None if it was not taken.

    Without an interval, `low` and `high` are the mean.
    """
    if key == "score":
        judged = _dict(model, "judge")
        mean = judged.get("mean")
        interval = judged.get("interval")
    else:
        mean = model.get(key)
        interval = _dict(model, "intervals").get(key)
    if mean is None:
        return None

    if interval is not None and None in interval:
        interval = None
    low, high = interval or (mean, mean)
    return {"mean": mean, "interval": interval, "low": low, "high": high}


def _name(summary: Json) -> str:
    """Return the base's short name, such as gpt2-medium; without a base, the model's own."""
    model = _dict(summary, "base") or _dict(summary, "tuned")
    return Path(model.get("source") or "the model").name


def _further(summary: Json) -> Iterator[Json]:
    """Yield the numbers without an interval, for each model that there is."""
    models = [summary[name] for name in MODELS if summary.get(name)]
    for label, (*way, key), digits in FURTHER:
        values = [_dict(model, *way).get(key) for model in models]
        if any(value is not None for value in values):
            yield {"label": label, "values": values, "digits": digits}


def _values(rows: list[Json], model: str, key: str) -> list[float]:
    values = (_dict(row, model).get(key) for row in rows)
    return [value for value in values if value is not None]


def _categories(summary: Json) -> Json | None:
    """Return the number of records and the means of each category, the weakest first.

    The means are scores where there was a judge, and shares of exact matches otherwise.
    """
    key = "score" if summary.get("score_by_category") else "exact_match"
    means = _dict(summary, f"{key}_by_category")
    if not means:
        return None

    # A category without a value comes last.
    def weakness(name: str) -> tuple[bool, float]:
        value = means[name].get("tuned")
        return value is None, value or 0

    weakest_first = {name: means[name] for name in sorted(means, key=weakness)}
    return {"measure": MEASURES[key], "means": weakest_first}


def _without_duplicates(summary: Json, key: str) -> Iterator[Json]:
    """Yield the means without the records that have a neighbour in the training split."""
    without = _dict(summary, "duplicates", key)
    for measure in MEASURES.values():
        values = [_dict(without, name).get(measure.name) for name in MODELS if summary.get(name)]
        if any(value is not None for value in values):
            yield {"label": measure.label, "values": values, "digits": measure.digits}


def _statuses(summary: Json) -> list[str]:
    """Return the statuses of judgements without a score."""
    found = {status for name in MODELS for status in _dict(summary, name, "judge", "status")}
    return sorted(found - {"scored"})


def _worst(summary: Json, by_record: dict[int, Json]) -> Iterator[tuple[Metric, list[Json]]]:
    """Yield each measure with the records that are worst by it."""
    for key, measure in MEASURES.items():
        rows = []
        for record in _dict(summary, "worst").get(key) or []:
            if record in by_record:
                row = by_record[record]
                rows.append(row | {"value": _dict(row, "tuned").get(key)})
        if rows:
            yield measure, rows
