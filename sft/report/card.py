"""The model card, `README.md` of a model's folder: its origin, its recipe and its scores."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sft.atomic import read_json, write_text
from sft.checkpoint import weights
from sft.checkpoint.files import CARD, CONFIG, TOKENIZER_CONFIG
from sft.data.prompt import user_message
from sft.data.records import Record
from sft.errors import InputError
from sft.metrics import METRICS
from sft.prompts import PROMPTS
from sft.scoring.results import SUMMARY, EvaluationSummary, read_summary
from sft.scoring.statistics import Interval
from sft.summaries import RunSummary, read_run_summary

# A model's mean of a metric, with its 95% interval.
Cell = tuple[float | None, Interval | None]

LOSSES = {"train/eval_loss": "training", "val/loss": "validation"}
RELEASED = re.compile(r"openai-community/gpt2(-medium|-large|-xl)?")
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")

# The record of which the card shows the prompt.
EXAMPLE = Record("Rewrite the sentence in the past tense.", "She sings.", "")


def write_card(run: Path) -> None:
    """Write the card of a run's model.

    It is made from the run's `summary.json`, and from `evaluation/summary.json` if that is of the
    same weights.

    Raises:
        InputError: a summary cannot be read, or the card cannot be written.
    """
    summary = read_run_summary(run)
    model = run / "model"

    evaluated = run / "evaluation"
    evaluation = read_summary(evaluated) if (evaluated / SUMMARY).exists() else None
    if evaluation and evaluation.tuned.sha256 != weights.sha256(weights.files(model)):
        evaluation = None
    context = read_json(model / CONFIG)["n_positions"]
    conversations = read_json(model / TOKENIZER_CONFIG).get("sft_conversations") is True
    name = run.resolve().name
    write_text(model / CARD, card_text(name, summary, evaluation, context, conversations))


def card_text(
    name: str,
    summary: RunSummary,
    evaluation: EvaluationSummary | None,
    context: int,
    conversations: bool = False,
) -> str:
    """Return the card's text.

    Args:
        name: of the model.
        evaluation: of these weights; None if there was none.
        context: the most tokens that the model reads.
        conversations: the model was tuned on conversations of several turns.
    """
    data = summary.config["data"]
    base = summary.checkpoint
    template = summary.template
    if template is None:
        template = PROMPTS[data["prompt"] or "alpaca"]
    with_input = _with_input(template)
    losses = [
        (label, summary.losses[key]) for key, label in LOSSES.items() if key in summary.losses
    ]

    values = asdict(summary) | {
        "name": name,
        "base": base,
        "hub_base": base.source if _of_the_hub(base.source) else None,
        "data": asdict(summary.data)
        | {
            "name": Path(summary.data.path).name,
            "url": data.get("url"),
        },
        "template": template,
        "chats": bool(template),
        "conversations": conversations,
        "message": json.dumps(with_input or EXAMPLE.instruction),
        "with_input": with_input,
        "losses": losses,
        "evaluation": evaluation,
        "models": list(evaluation.models) if evaluation else [],
        "scores": _scores(evaluation) if evaluation else [],
        "context": context,
        "licence": _licence(base.source, _data_licence(data)),
    }
    return _environment().get_template("card.md.jinja").render(values)


def _scores(evaluation: EvaluationSummary) -> list[tuple[str, list[Cell]]]:
    """Return a line for each metric that was taken, with a cell for each model.

    The judge's score is not among them: it depends on the judge.
    """
    lines: list[tuple[str, list[Cell]]] = []
    for metric in METRICS:
        cells: list[Cell] = []
        for model in evaluation.models.values():
            cells.append((model.mean(metric.name), model.interval(metric.name)))
        taken = any(value is not None for value, _ in cells)
        if taken and metric.name != "score":
            lines.append((metric.long_label, cells))
    return lines


def _of_the_hub(source: str) -> bool:
    return bool(REPOSITORY.fullmatch(source)) and not Path(source).exists()


def _with_input(template: str) -> str | None:
    """Return the chat message that stands for an instruction with an input; None if none does."""
    try:
        return user_message(template, EXAMPLE) if template else None
    except InputError:
        return None


def _data_licence(data: dict[str, Any]) -> str | None:
    """Return the licence of a run's data, if it is known."""
    # Runs of earlier versions did not note the licence. Only Alpaca's changes that of the weights.
    earlier = "cc-by-nc-4.0" if data["source"] == "alpaca" else None
    found: str | None = data.get("licence", earlier)
    return found


def _licence(base: str, data: str | None) -> dict[str, str | None]:
    """Return the licence of the weights, as a tag for the hub and as text.

    Data that forbid commercial use forbid it for the weights, too.
    """
    if RELEASED.fullmatch(base):
        tag = "mit"
        text = "The weights are made from OpenAI's GPT-2, which is under a modified MIT licence."
    elif base == "gpt2-nano":
        tag = "apache-2.0"
        text = "The weights are made from the miniature gpt2-nano, which is under Apache-2.0."
    else:
        tag = None
        text = f"The weights are made from {base}, whose licence holds for them too."
    if data and re.search(r"\bnc\b", data.lower()):
        tag = data
    return {"tag": tag, "text": f"{text} The data: {data or 'as their owner says'}."}


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["number"] = lambda value: "" if value is None else f"{value:.3f}"
    return environment
