"""From rows, one for each record, to the numbers of a model and of the difference between two.

A row is what `sft/evaluation/results.py` describes; `model` is the name of one of its models, "tuned" or "base".
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import fmean as mean
from statistics import median
from typing import Any

from sft.scoring.metrics import METRICS, spaced
from sft.scoring.statistics import difference, interval, rank_correlation, verdict

Row = dict[str, Any]
COMPARED = (*METRICS, "loss", "score")
LOWER_IS_BETTER = {"loss"}


def numbers(rows: Sequence[Row], model: str) -> dict[str, Any]:
    """A model's means over the records, with their 95% intervals; the loss is a mean over tokens."""
    loss = _loss(rows, model)
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700)),  # e^710 is no double
        **{metric: mean(_values(rows, model, metric)) for metric in METRICS},
        "intervals": {metric: _interval(rows, model, metric) for metric in (*METRICS, "loss")},
        "not_asked": not_asked([row[model] for row in rows]),
        "never_stopped": sum(row[model]["finish_reason"] == "length" for row in rows),
        "tokens_per_answer": mean(_values(rows, model, "tokens")),
        "judge": judged(rows, model),
        "length": _length(rows, model),
    }


def is_asked(part: Row) -> bool:
    """Whether the model was asked the record; `part` is what the record's row holds of it."""
    return part["text"] is not None


def not_asked(parts: Sequence[Row]) -> dict[str, int]:
    """How many records the model was not asked, by their status."""
    return dict(sorted(Counter(part["status"] for part in parts if not is_asked(part)).items()))


def judged(rows: Sequence[Row], model: str) -> dict[str, Any] | None:
    """The judge's scores of a model's answers, and how many have none and why; None if no judge was asked."""
    rows = [row for row in rows if is_asked(row[model])]
    status = Counter(row[model]["status"] for row in rows)
    if set(status) == {None}:
        return None
    scores = _values(rows, model, "score")
    measures: dict[str, Callable[[list[float]], Any]]
    measures = {"mean": mean, "median": median, "max": max, "min": min, "interval": interval}
    found = {name: measure(scores) if scores else None for name, measure in measures.items()}
    return found | {"scored": len(scores), "of": len(rows), "status": dict(sorted(status.items()))}


def _length(rows: Sequence[Row], model: str) -> dict[str, Any]:
    """Words of an answer, and Spearman's correlation of the judge's score with them."""
    rows = [row for row in rows if is_asked(row[model])]
    scored = [row for row in rows if row[model]["score"] is not None]
    words = [len(spaced(row[model]["text"]).split()) for row in scored]
    return {
        "mean_words": mean(len(spaced(row[model]["text"]).split()) for row in rows),
        "score_correlation": rank_correlation(_values(scored, model, "score"), words),
    }


def _values(rows: Sequence[Row], model: str, metric: str) -> list[float]:
    return [row[model][metric] for row in rows if row[model][metric] is not None]


def _loss(rows: Sequence[Row], model: str) -> float:
    tokens = sum(row[model]["loss_tokens"] for row in rows)
    total = math.fsum(
        row[model]["loss"] * row[model]["loss_tokens"] for row in rows if row[model]["loss_tokens"]
    )
    return total / tokens if tokens else math.nan


def _interval(rows: Sequence[Row], model: str, metric: str) -> tuple[float, float] | None:
    weights = None
    if metric == "loss":
        rows = [row for row in rows if row[model]["loss_tokens"]]
        weights = _values(rows, model, "loss_tokens")
    return interval(_values(rows, model, metric), weights, shares=metric in METRICS)


def differences(
    first: Sequence[Row], second: Sequence[Row], names: tuple[str, str]
) -> dict[str, dict[str, Any]]:
    """How two models differ on the same records, metric by metric, with what it means in words.

    Args:
        first, second: what each model did on each record, record by record: the parts of rows under a model's name.
        names: what the words call the models.

    Losses are left out if the models' tokenizers cut the expected answers differently, scores if there are none.
    """
    found = {}
    for metric in COMPARED:
        pairs = [
            pair
            for pair in zip(first, second, strict=True)
            if None not in (pair[0][metric], pair[1][metric])
        ]
        weights = [one["loss_tokens"] for one, _ in pairs] if metric == "loss" else None
        if metric == "loss" and weights != [other["loss_tokens"] for _, other in pairs]:
            continue
        lower = metric in LOWER_IS_BETTER
        apart = difference(
            [one[metric] for one, _ in pairs], [other[metric] for _, other in pairs], weights, lower
        )
        if apart is not None:
            found[metric] = (
                {"records": len(pairs)} | asdict(apart) | {"verdict": verdict(apart, *names, lower)}
            )
    return found


def by_category(
    rows: Sequence[Row], models: Sequence[str], metric: str
) -> dict[str, dict[str, float]] | None:
    """For each category its records and each model's mean; None if no record has a category and a number."""
    groups = defaultdict(list)
    for row in rows:
        if row["category"] is not None and all(row[model][metric] is not None for model in models):
            groups[row["category"]].append(row)
    found = {
        category: {"records": len(group)}
        | {model: mean(_values(group, model, metric)) for model in models}
        for category, group in sorted(groups.items())
    }
    return found or None


def without_duplicates(rows: Sequence[Row], models: Sequence[str]) -> dict[str, Any]:
    """How many records another split holds too, and the models' means over the others."""
    kinds = Counter(row["duplicate"] for row in rows)
    others = [row for row in rows if row["duplicate"] is None]
    means = {
        model: {metric: _mean(others, model, metric) for metric in COMPARED} if others else None
        for model in models
    }
    return {
        "exact": kinds["exact"],
        "near": kinds["near"],
        "without": {"records": len(others)} | means,
    }


def _mean(rows: Sequence[Row], model: str, metric: str) -> float | None:
    if metric == "loss":
        return _loss(rows, model)
    values = _values(rows, model, metric)
    return mean(values) if values else None


def worst(rows: Sequence[Row], model: str, count: int = 20) -> dict[str, list[int]]:
    """For each metric the numbers of the records on which the model is worst, the worst first."""
    found = {}
    for metric in COMPARED:
        measured = [row for row in rows if row[model][metric] is not None]
        measured.sort(key=lambda row: row[model][metric], reverse=metric in LOWER_IS_BETTER)
        if measured:
            found[metric] = [row["record"] for row in measured[:count]]
    return found


def not_asked_remarks(summary: dict[str, Any]) -> list[str]:
    """A remark for each model that was not asked every record; one for both where it is the same."""
    counts = {
        name: summary[name].get("not_asked") for name in ("tuned", "base") if summary.get(name)
    }
    if len(counts) == 2 and counts["tuned"] == counts["base"]:
        counts = {"either model": counts["tuned"]}
    return [
        f"not asked of {name}: {not_asked_text(found)}; left out of all numbers"
        for name, found in counts.items()
        if found
    ]


def not_asked_text(counts: dict[str, int]) -> str:
    """As in "2 records, whose prompt is too long"."""
    texts = (
        f"{count} record{'s' * (count > 1)}, whose prompt is {status}"
        for status, count in counts.items()
    )
    return "; ".join(texts)
