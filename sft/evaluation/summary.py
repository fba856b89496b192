"""An evaluation's numbers, as `summary.json` and the terminal show them."""

import math
from collections.abc import Sequence
from typing import Any

from sft.evaluation.measure import ModelResult
from sft.scoring.aggregate import (
    Row,
    by_category,
    differences,
    not_asked_remarks,
    numbers,
    without_duplicates,
    worst,
)
from sft.scoring.metrics import METRICS
from sft.scoring.statistics import NOISE, TOO_FEW

LOSS_IS = (
    "nats per token, a mean over the tokens of all expected answers with their end tokens, prompts left out; "
    "loss_as_trained counts the prompts too if data.mask_prompt=false"
)


def summarise(
    rows: Sequence[Row], results: dict[str, ModelResult], duplicates_known: bool
) -> dict[str, Any]:
    """The numbers of the models, `tuned` and `base` (null if there is none), and of the difference between them.

    Args:
        duplicates_known: it is known which records had a part in making the model.
    """
    models = list(results)
    means = {name: _of_model(result) | numbers(rows, name) for name, result in results.items()}
    return {
        "records": len(rows),
        "loss_is": LOSS_IS,
        "tuned": means["tuned"],
        "base": means.get("base"),
        "tuned_against_base": _against_base(rows) if "base" in results else None,
        "exact_match_by_category": by_category(rows, models, "exact_match"),
        "score_by_category": by_category(rows, models, "score"),
        "duplicates": without_duplicates(rows, models) if duplicates_known else None,
        "worst": worst(rows, "tuned"),
    }


def _of_model(result: ModelResult) -> dict[str, Any]:
    """Which model it was, and what is not a mean over records."""
    checkpoint = result.checkpoint
    return {
        "source": checkpoint.source,
        "revision": checkpoint.revision,
        "sha256": checkpoint.sha256,
        "loss_as_trained": result.losses.learned,
        "seconds": round(result.seconds, 2),
    }


def _against_base(rows: Sequence[Row]) -> dict[str, Any]:
    tuned, base = ([row[name] for row in rows] for name in ("tuned", "base"))
    return differences(tuned, base, ("tuned", "base"))


def table(summary: dict[str, Any]) -> str:
    """The means of base and tuned, side by side, with their 95% intervals, and how many of the records are no test."""
    models = [summary[name] for name in ("base", "tuned") if summary[name]]
    names = [name for name in ("base", "tuned") if summary[name]]
    lines = [
        f"{summary['records']:>5} records   "
        + "".join(f"{name:>9}{'95% interval':>18}" for name in names)
    ]
    if summary["tuned"]["judge"]:
        judged = [model["judge"] for model in models]
        lines.append(_line("judge", [(found["mean"], found["interval"]) for found in judged]))
    for key in (*METRICS, "loss", "perplexity", "never_stopped"):
        lines.append(
            _line(
                key.replace("_", " "),
                [(model[key], model["intervals"].get(key)) for model in models],
            )
        )
    return "\n".join([*lines, *_remarks(summary)])


def _line(name: str, cells: list[tuple[float | None, tuple[float, float] | None]]) -> str:
    return (
        f"{name:16}" + "".join(f"{_number(value):>9}{_range(span):>18}" for value, span in cells)
    ).rstrip()


def _number(value: float | None) -> str:
    if value is None or isinstance(value, int):
        return "-" if value is None else f"{value:,}"
    if math.isnan(value):
        return "-"
    return f"{value:,.3f}" if value < 1e5 else f"{value:.2e}"


def _range(interval: tuple[float, float] | None) -> str:
    return f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""


def _remarks(summary: dict[str, Any]) -> list[str]:
    """What must be known beside the means: differences that are noise, records that training has seen."""
    compared, judge = summary["tuned_against_base"] or {}, summary["judge"] or {}
    noise = [
        metric.replace("_", " ") for metric, found in compared.items() if found["verdict"] == NOISE
    ]
    remarks = not_asked_remarks(summary)
    remarks += [f"{NOISE}: {', '.join(noise)}"] if noise else []
    remarks += [TOO_FEW] if any(found["interval"] is None for found in compared.values()) else []
    remarks += [
        part["verdict"]
        for part in (judge.get("audit"), judge.get("pairwise"))
        if part and "verdict" in part
    ]
    remarks += [judge["warning"]] if judge.get("warning") else []
    status = [
        (summary[name]["judge"] or {}).get("status", {})
        for name in ("tuned", "base")
        if summary[name]
    ]
    if waiting := sum(counts.get("timeout", 0) + counts.get("error", 0) for counts in status):
        remarks.append(
            f"{waiting} answers have no score yet, as the judge gave no reply; the same command asks again"
        )
    seen = summary["duplicates"] or {"exact": 0, "near": 0}
    if number := seen["exact"] + seen["near"]:
        remarks.append(
            f"{number} of the records stand in train or validation too ({seen['near']} of them in nearly the same "
            "words); summary.json gives the means without them"
        )
    return ["", *remarks] if remarks else []
