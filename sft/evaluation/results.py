"""What an evaluation found: as records, as numbers, and as a few lines to read."""

import math
import textwrap
from typing import Any

from sft.data.records import Record
from sft.evaluation.exam import Result
from sft.evaluation.metrics import METRICS, exact_by_category, mean

LOSS_IS = (
    "nats per token, a mean over the tokens of all expected answers with their end tokens, prompts left out; "
    "loss_as_trained counts the prompts too if data.mask_prompt=false"
)


def numbers(result: Result) -> dict[str, Any]:
    """One model's means over the records, and which model it was."""
    checkpoint, answers = result.checkpoint, result.answers
    return {
        "source": checkpoint.source,
        "revision": checkpoint.revision,
        "sha256": checkpoint.sha256,
        "loss": result.loss,
        "perplexity": math.exp(min(result.loss, 700)),  # e^710 is no double
        "loss_as_trained": result.loss_as_trained,
        **mean(result.scores),
        "never_stopped": sum(answer.finish_reason == "length" for answer in answers),
        "tokens_per_answer": sum(answer.tokens for answer in answers) / len(answers),
        "seconds": round(result.seconds, 2),
    }


def responses(records: list[Record], results: dict[str, Result]) -> list[dict[str, str | None]]:
    """The records with their answers, in the published scripts' shape; without a base its answers are null."""
    texts = {name: [answer.text.strip() for answer in result.answers] for name, result in results.items()}
    base: list[str | None] = [*texts["base"]] if "base" in texts else [None] * len(records)
    return [
        {
            "instruction": record.instruction,
            "input": record.input,
            "output": record.output,
            "model_response": tuned_text,
            "base_response": base_text,
        }
        for record, tuned_text, base_text in zip(records, texts["tuned"], base, strict=True)
    ]


def by_category(records: list[Record], results: dict[str, Result]) -> dict[str, dict[str, float]] | None:
    """For each category: its records, and the share that each model answered exactly; None if there are none."""
    of_record = [record.category for record in records]
    exact = {name: exact_by_category(result.scores, of_record) for name, result in results.items()}
    found = {
        category: {"records": of_record.count(category)} | {name: shares[category] for name, shares in exact.items()}
        for category in exact["tuned"]
    }
    return found or None


def examples_text(rows: list[dict[str, str | None]], count: int = 3) -> str:
    """The first answers beside the expected ones."""
    names = {"input": "input", "output": "expected", "base_response": "base", "model_response": "tuned"}
    blocks = []
    for row in rows[:count]:
        lines = [f"{name:10}{_short(row[key])}" for key, name in names.items() if row[key] or key == "model_response"]
        blocks.append("\n".join([_short(row["instruction"]), *lines]))
    return "\n\n".join(blocks)


def _short(text: str | None) -> str:
    return textwrap.shorten(text or "(nothing)", 300, placeholder=" …")


def table(means: dict[str, dict[str, Any]], records: int) -> str:
    """The means of base and tuned, side by side."""
    names = [name for name in ("base", "tuned") if name in means]
    lines = [f"{f'{records} records':16}" + "".join(f"{name:>10}" for name in names)]
    for key in (*METRICS, "loss", "perplexity", "never_stopped"):
        cells = [_cell(means[name][key]) for name in names]
        lines.append(f"{key.replace('_', ' '):16}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)


def _cell(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}" if value < 1e5 else f"{value:.2e}"
