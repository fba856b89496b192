"""The results on each record before a judge is asked, and a few of them to read."""

import textwrap
from collections.abc import Sequence
from typing import Any

from sft.data.records import Record
from sft.evaluation.duplicates import Duplicate
from sft.evaluation.measure import ModelResult
from sft.metrics import TEXT_METRICS
from sft.scoring.results import AnswerResult, RecordResult


def rows_of(
    records: Sequence[Record],
    results: dict[str, ModelResult],
    duplicates: Sequence[Duplicate],
) -> list[RecordResult]:
    """Gather the results of all models, record by record.

    Args:
        duplicates: each record's neighbour in another split.
    """
    tuned = answer_results(results["tuned"])
    base: Sequence[AnswerResult | None] = [None] * len(records)
    if "base" in results:
        base = answer_results(results["base"])

    rows = []
    for index, record in enumerate(records):
        rows.append(
            RecordResult(
                record=index + 1,
                duplicate=duplicates[index].kind,
                similarity=duplicates[index].similarity,
                instruction=record.instruction,
                input=record.input,
                output=record.output,
                category=record.category,
                before=[turn._asdict() for turn in record.before],
                tuned=tuned[index],
                base=base[index],
            )
        )
    return rows


def answer_results(result: ModelResult) -> list[AnswerResult]:
    """Return a model's result on each record, as far as it is known without a judge."""
    found = []
    parts = zip(result.statuses, result.answers, result.scores, result.answer_losses(), strict=True)
    for status, answer, scores, (loss, loss_tokens) in parts:
        found.append(
            AnswerResult(
                text=answer.text.strip() if answer else None,
                tokens=answer.tokens if answer else None,
                finish_reason=answer.finish_reason if answer else None,
                metrics=dict(scores) if scores else dict.fromkeys(TEXT_METRICS),
                loss=loss,
                loss_tokens=loss_tokens,
                status=status,
            )
        )
    return found


def responses(rows: Sequence[RecordResult]) -> list[dict[str, Any]]:
    """Return the records with their answers, in the shape of the published scripts.

    A conversation also has the turns before its last question. The answer of a model that is
    missing or was not asked is null.
    """
    return [
        ({"before": row.before} if row.before else {})
        | {
            "instruction": row.instruction,
            "input": row.input,
            "output": row.output,
            "model_response": row.tuned.text,
            "base_response": row.base.text if row.base else None,
        }
        for row in rows
    ]


def examples_text(rows: Sequence[RecordResult], count: int = 3) -> str:
    """Return the first answers, each with the expected one."""
    blocks = []
    for row in rows[:count]:
        lines = [_line(role, text) for role, text in row.turns_before]
        lines.append(_short(row.instruction))
        if row.input:
            lines.append(_line("input", row.input))
        if row.output:
            lines.append(_line("expected", row.output))
        if row.base and (base := _answer_text(row.base)):
            lines.append(_line("base", base))
        lines.append(_line("tuned", _answer_text(row.tuned)))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _answer_text(answer: AnswerResult) -> str:
    """Return the answer, or why there is none."""
    if answer.text is None:
        return f"(not asked: its prompt is {answer.status})"
    return answer.text


def _line(name: str, text: str) -> str:
    return f"{name:10}{_short(text)}"


def _short(text: str) -> str:
    return textwrap.shorten(text or "(nothing)", 300, placeholder=" …")
