"""What the report shows, taken from the summaries and the records; of all these, any part may be absent."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sft.report.charts import histogram, loss_curves
from sft.scoring.aggregate import not_asked_remarks
from sft.scoring.metrics import METRICS, Metric
from sft.scoring.statistics import RELIABLE, TOO_FEW

Json = dict[str, Any]
MODELS = ("base", "tuned")


# The metrics by name, the judge's score first.
MEASURES = {
    metric.name: metric for metric in sorted(METRICS, key=lambda metric: metric.name != "score")
}
FURTHER = (  # label, where it stands in a model's part of the summary, digits
    ("perplexity of the expected answers", ("perplexity",), 3),
    ("answers that never came to an end", ("never_stopped",), 0),
    ("tokens per answer", ("tokens_per_answer",), 1),
    ("words per answer", ("length", "mean_words"), 1),
    ("correlation of score with length", ("length", "score_correlation"), 2),
)


def contents(summary: Json, rows: list[Json], run: Json | None, metrics: list[Json]) -> Json:
    """The variables of the templates."""
    lines = headline(summary)
    judged = any(line["measure"].name == "score" for line in lines)
    shown = MEASURES["score" if judged else "chrf"]
    return {
        "summary": summary,
        "run": run,
        "name": _name(summary),
        "models": [name for name in MODELS if summary.get(name)],
        "headline": lines,
        "verdict": next(map(_lead, (line for line in lines if _may_lead(line, summary))), None),
        "too_few": TOO_FEW
        if any("interval" in line["against"] and not line["against"]["interval"] for line in lines)
        else None,
        "not_asked": not_asked_remarks(
            {name: _dict(summary, name, "not_asked") for name in MODELS if summary.get(name)}
        ),
        "further": list(_further(summary)),
        "losses": loss_curves(metrics),
        "scores": histogram(
            {name: _values(rows, name, shown.name) for name in MODELS}, shown.top or 1, shown.label
        ),
        "scored_by": shown,
        "categories": _categories(summary),
        "without": list(_without_duplicates(summary)),
        "statuses": _statuses(summary),
        "identity": {
            key: value for key, value in _dict(summary, "judge").items() if key not in JUDGED
        },
        "worst": list(_worst(summary, {row["record"]: row for row in rows})),
        "noisiest": [
            row | {"value": row.get("loss")}
            for row in summary.get("noisiest_training_records") or []
        ],
    }


JUDGED = (
    "coverage",
    "warning",
    "audit",
    "pairwise",
)  # what the judge did; the rest says which one it was


def _dict(values: Json | None, *keys: str) -> Json:
    """A dict within dicts; empty where it, or one on the way, is absent."""
    for key in keys:
        values = (values or {}).get(key)
    return values or {}


def headline(summary: Json) -> list[Json]:
    """A line for each measure that was taken: means and intervals of both models, and their paired difference."""
    lines = []
    for measure in MEASURES.values():
        models = {name: _mean(_dict(summary, name), measure.name) for name in MODELS}
        if found := [value for value in models.values() if value]:
            top = measure.top or max(value["high"] for value in found) or 1
            against = _dict(summary, "tuned_against_base", measure.name)
            lines.append({"measure": measure, **models, "top": top, "against": against})
    return lines


def _may_lead(line: Json, summary: Json) -> bool:
    """Whether a difference was taken; and, of scores, by a judge who can be relied on."""
    judge, audit = _dict(summary, "judge"), _dict(summary, "judge", "audit")
    doubtful = bool(judge.get("warning")) or (bool(audit) and (audit.get("auc") or 0) < RELIABLE)
    return bool(line["against"].get("verdict")) and not (
        line["measure"].name == "score" and doubtful
    )


def _lead(line: Json) -> str:
    """The most telling difference in a sentence."""
    return f"By {line['measure'].label}, {line['against']['verdict']}."


def _mean(model: Json, key: str) -> Json | None:
    """A model's mean, and how far it may be off: from `low` to `high`, both the mean where no interval was taken."""
    if key == "score":
        mean, interval = _dict(model, "judge").get("mean"), _dict(model, "judge").get("interval")
    else:
        mean, interval = model.get(key), _dict(model, "intervals").get(key)
    if mean is None:
        return None
    interval = None if interval is None or None in interval else interval
    low, high = interval or (mean, mean)
    return {"mean": mean, "interval": interval, "low": low, "high": high}


def _name(summary: Json) -> str:
    """The base's short name, as gpt2-medium for openai-community/gpt2-medium; of a model alone, its own."""
    return Path(
        (_dict(summary, "base") or _dict(summary, "tuned")).get("source") or "the model"
    ).name


def _further(summary: Json) -> Iterator[Json]:
    """Numbers without an interval, for each model that there is."""
    models = [summary[name] for name in MODELS if summary.get(name)]
    for label, (*way, key), digits in FURTHER:
        values = [_dict(model, *way).get(key) for model in models]
        if any(value is not None for value in values):
            yield {"label": label, "values": values, "digits": digits}


def _values(rows: list[Json], model: str, key: str) -> list[float]:
    values = (_dict(row, model).get(key) for row in rows)
    return [value for value in values if value is not None]


def _categories(summary: Json) -> Json | None:
    """Each category's number of records and means, by the judge where there is one, the weakest first."""
    key = "score" if summary.get("score_by_category") else "exact_match"
    means = _dict(summary, f"{key}_by_category")
    if not means:
        return None
    weakest_first = sorted(
        means.items(), key=lambda item: (item[1].get("tuned") is None, item[1].get("tuned") or 0)
    )
    return {"measure": MEASURES[key], "means": dict(weakest_first)}


def _without_duplicates(summary: Json) -> Iterator[Json]:
    """The means over the records that are in the training split too, left out."""
    without = _dict(summary, "duplicates", "without")
    for measure in MEASURES.values():
        values = [_dict(without, name).get(measure.name) for name in MODELS if summary.get(name)]
        if any(value is not None for value in values):
            yield {"label": measure.label, "values": values, "digits": measure.digits}


def _statuses(summary: Json) -> list[str]:
    """What became of judgements, other than a score."""
    found = {status for name in MODELS for status in _dict(summary, name, "judge", "status")}
    return sorted(found - {"scored"})


def _worst(summary: Json, by_record: dict[int, Json]) -> Iterator[tuple[Metric, list[Json]]]:
    for key, measure in MEASURES.items():
        rows = [
            by_record[record]
            for record in _dict(summary, "worst").get(key) or []
            if record in by_record
        ]
        if rows:
            yield measure, [row | {"value": _dict(row, "tuned").get(key)} for row in rows]
