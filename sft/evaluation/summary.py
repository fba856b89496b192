"""The means of an evaluation, and the table of them for the terminal."""

import math
from collections.abc import Sequence
from typing import Any

from sft.errors import counted
from sft.evaluation.measure import ModelResult
from sft.metrics import BY_NAME, METRICS
from sft.scoring.aggregate import (
    by_category,
    by_turns,
    differences,
    not_asked_remarks,
    numbers,
    turns_remark,
    visible_remark,
    without_duplicates,
    worst,
)
from sft.scoring.results import EvaluationSummary, ModelSummary, RecordResult
from sft.scoring.statistics import NOISE, TOO_FEW

LOSS_IS = (
    "nats per token, a mean over the tokens of all expected answers with their end tokens, prompts "
    "left out; loss_as_trained counts the prompts too if data.mask_prompt=false"
)

# The metrics that the terminal shows without the records that have a near neighbour.
SHOWN_WITHOUT = ("exact_match", "loss")


def means_of(
    rows: Sequence[RecordResult], results: dict[str, ModelResult], duplicates_known: bool
) -> dict[str, Any]:
    """Return the part of an `EvaluationSummary` that is computed from the records.

    Args:
        duplicates_known: whether it is known which records had a part in making the model.
    """
    models = list(results)
    base = None
    against_base = None
    if "base" in results:
        base = _of_model(results["base"], rows, "base")
        against_base = differences(
            [row.tuned for row in rows], [row.of("base") for row in rows], ("tuned", "base")
        )
    return {
        "records": len(rows),
        "loss_is": LOSS_IS,
        "tuned": _of_model(results["tuned"], rows, "tuned"),
        "base": base,
        "tuned_against_base": against_base,
        "exact_match_by_category": by_category(rows, models, "exact_match"),
        "exact_match_by_turns": by_turns(rows, models, "exact_match"),
        "score_by_category": by_category(rows, models, "score"),
        "duplicates": without_duplicates(rows, models) if duplicates_known else None,
        "worst": worst(rows),
    }


def _of_model(result: ModelResult, rows: Sequence[RecordResult], name: str) -> ModelSummary:
    checkpoint = result.checkpoint
    return ModelSummary(
        source=checkpoint.source,
        revision=checkpoint.revision,
        sha256=checkpoint.sha256,
        loss_as_trained=result.losses.learned,
        seconds=round(result.seconds, 2),
        **numbers([row.of(name) for row in rows]),
    )


def table(summary: EvaluationSummary) -> str:
    """Return the means of base and tuned with their 95% intervals, and what to know of them."""
    models = list(summary.models.values())
    header = f"{counted(summary.records, 'record'):>13}   "
    for name in summary.models:
        header += f"{name:>9}{'95% interval':>18}"
    lines = [header]

    if summary.tuned.judge:
        lines.append(_line("judge", models, "score"))
    for metric in METRICS:
        if metric.name != "score":
            lines.append(_line(metric.label, models, metric.name))
    lines.append(_cells("perplexity", [(model.perplexity, None) for model in models]))
    lines.append(_cells("never stopped", [(model.never_stopped, None) for model in models]))
    lines.append(_cells("loops (share)", [(model.loops, None) for model in models]))

    speeds = [model.answering for model in models]
    if any(speeds):
        rates = [round(speed.tokens_per_sec) if speed else None for speed in speeds]
        lines.append(_cells("tokens per sec.", [(rate, None) for rate in rates]))
        shares = [speed.mbu if speed else None for speed in speeds]
        lines.append(_cells("MBU (share)", [(share, None) for share in shares]))

    remarks = _remarks(summary)
    if remarks:
        lines += ["", *remarks]
    return "\n".join(lines)


def _line(label: str, models: list[ModelSummary], metric: str) -> str:
    return _cells(label, [(model.mean(metric), model.interval(metric)) for model in models])


def _cells(label: str, cells: list[tuple[float | None, tuple[float, float] | None]]) -> str:
    line = f"{label:16}"
    for value, interval in cells:
        shown = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
        line += f"{_number(value):>9}{shown:>18}"
    return line.rstrip()


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.3f}" if value < 1e5 else f"{value:.2e}"


def _remarks(summary: EvaluationSummary) -> list[str]:
    """Return remarks that qualify the means, such as which differences are noise."""
    models = summary.models
    remarks = not_asked_remarks({name: model.not_asked for name, model in models.items()})

    # The differences.
    compared = summary.tuned_against_base or {}
    noise = [BY_NAME[name].label for name, one in compared.items() if one.verdict == NOISE]
    if noise:
        remarks.append(f"{NOISE}: {', '.join(noise)}")
    if any(one.interval is None for one in compared.values()):
        remarks.append(TOO_FEW)
    if visible := visible_remark(compared, summary.records):
        remarks.append(visible)

    # The judge.
    if summary.judge:
        for part in (summary.judge.audit, summary.judge.pairwise):
            if part and part.verdict:
                remarks.append(part.verdict)
        if summary.judge.warning:
            remarks.append(summary.judge.warning)
        if summary.judge.labels:
            remarks += summary.judge.labels.text
    waiting = 0
    for model in models.values():
        status = model.judge.status if model.judge else {}
        waiting += status.get("timeout", 0) + status.get("error", 0)
    if waiting:
        remarks.append(
            f"no score yet for {counted(waiting, 'answer')}: the judge gave an error or no reply "
            "(`reason` in records.jsonl); run the same command again to ask for them"
        )

    # The records.
    if turns := turns_remark(summary.exact_match_by_turns):
        remarks.append(turns)
    remarks += _duplicates(summary)
    return remarks


def _duplicates(summary: EvaluationSummary) -> list[str]:
    """Say how many records have a neighbour that tuned the model, and how the others did."""
    known = summary.duplicates
    if known is None or known.exact + known.near == 0:
        return []
    remark = (
        f"near neighbours in train or validation: {known.exact + known.near} of the records have "
        f"one, {known.exact} of these word for word"
    )
    without = known.without
    if without.records == 0:
        return [f"{remark}; no record is left without them"]
    means = []
    for metric in SHOWN_WITHOUT:
        values = [(name, (without.models[name] or {}).get(metric)) for name in summary.models]
        shown = ", ".join(f"{name} {_number(value)}" for name, value in values)
        means.append(f"{BY_NAME[metric].label} {shown}")
    return [f"{remark}; over the other {without.records}: {'; '.join(means)}"]
