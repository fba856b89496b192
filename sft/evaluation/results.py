"""What an evaluation found: a row for each record, in plain values, and a few lines to read.

A row holds `record` (its number in the split, from 1), `category`, `instruction`, `input`, `output`, `duplicate`
(`exact` or `near` if train or validation holds the question too), and under each model's name, `tuned` and `base` (null
if there is none): `text`, `tokens` and `finish_reason` of its answer, the metrics of that answer, `loss` (nats per
token of the expected answer) and `loss_tokens` (their number), and the judge's `status`, `score` and `reason` (null
without one). A record that the model could not be asked has the `status` `too long` or `empty`, after its prompt, and
null for the answer and all that is measured of it.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sft.data.records import Record
from sft.evaluation.measure import ModelResult
from sft.scoring.aggregate import Row
from sft.scoring.metrics import METRICS

UNASKED = dict.fromkeys(("text", "tokens", "finish_reason", *METRICS))
UNJUDGED = {"status": None, "score": None, "reason": None}


def rows_of(
    records: Sequence[Record], results: dict[str, ModelResult], duplicates: Sequence[str | None]
) -> list[Row]:
    """The rows, before a judge was asked.

    Args:
        duplicates: for each record its `duplicate`.
    """
    parts = {name: _of_model(result) for name, result in results.items()}
    absent: list[Any] = [None] * len(records)
    rows = zip(records, duplicates, parts["tuned"], parts.get("base", absent), strict=True)
    return [
        {"record": number, "duplicate": duplicate, **asdict(record), "tuned": tuned, "base": base}
        for number, (record, duplicate, tuned, base) in enumerate(rows, 1)
    ]


def _of_model(result: ModelResult) -> list[Row]:
    found = []
    parts = zip(result.statuses, result.answers, result.scores, result.answer_losses(), strict=True)
    for status, answer, scores, (loss, tokens) in parts:
        said: Row = dict(UNASKED)
        if answer and scores:
            said = {
                "text": answer.text.strip(),
                "tokens": answer.tokens,
                "finish_reason": answer.finish_reason,
            }
            said |= scores
        found.append(said | {"loss": loss, "loss_tokens": tokens} | UNJUDGED | {"status": status})
    return found


def responses(rows: Sequence[Row]) -> list[dict[str, str | None]]:
    """The records with their answers, in the published scripts' shape; an answer that there is none of is null."""
    return [
        {key: row[key] for key in ("instruction", "input", "output")}
        | {
            "model_response": row["tuned"]["text"],
            "base_response": row["base"] and row["base"]["text"],
        }
        for row in rows
    ]


def examples_text(rows: Sequence[Row], count: int = 3) -> str:
    """The first answers beside the expected ones."""
    blocks = []
    for row in rows[:count]:
        lines = {
            "input": row["input"],
            "expected": row["output"],
            "base": _said(row["base"]),
            "tuned": _said(row["tuned"]),
        }
        shown = [
            f"{name:10}{_short(text)}" for name, text in lines.items() if text or name == "tuned"
        ]
        blocks.append("\n".join([_short(row["instruction"]), *shown]))
    return "\n\n".join(blocks)


def _said(part: Row | None) -> str | None:
    """A model's answer, or why there is none."""
    if part is None:
        return None
    return (
        f"(not asked: its prompt is {part['status']})"
        if part["text"] is None
        else str(part["text"])
    )


def _short(text: str | None) -> str:
    return textwrap.shorten(text or "(nothing)", 300, placeholder=" …")
