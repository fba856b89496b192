"""The model card: what a model was made from, how, and how well it does, as the `README.md` of its folder."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sft.atomic import read_json, write_text
from sft.checkpoint import weights
from sft.checkpoint.folder import CARD
from sft.data.prompt import user_message
from sft.data.records import Record
from sft.errors import InputError
from sft.prompts import PROMPTS
from sft.summaries import RunSummary, read_run_summary

Json = dict[str, Any]

LOSSES = {"train/eval_loss": "training", "val/loss": "validation"}
SCORES = {  # what an evaluation's summary holds of a model, in the words of its report
    "exact_match": "exact match",
    "token_f1": "token F1",
    "rouge_l": "ROUGE-L",
    "chrf": "chrF",
    "loss": "loss, nats per token of the expected answers",
}
RELEASED = re.compile(r"openai-community/gpt2(-medium|-large|-xl)?")
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
DATA = {  # name and licence of the data sets there are, by their name in conf/data
    "nano": ("The embedded records of the miniature", "Apache-2.0"),
    "instructions": (
        "The instructions of rasbt/LLMs-from-scratch, chapter 7",
        "as its repository says",
    ),
    "alpaca": ("The instructions of tatsu-lab/stanford_alpaca", "CC BY-NC 4.0, for research alone"),
}
EXAMPLE = Record("Rewrite the sentence in the past tense.", "She sings.", "")


def write_card(run: Path) -> None:
    """Write the card of a run's model, from its `summary.json` and, if they are of the same weights, the scores of
    `evaluation/summary.json`.

    Raises:
        InputError: it cannot be written.
    """
    summary, model = read_run_summary(run), run / "model"
    evaluated = run / "evaluation" / "summary.json"
    evaluation = read_json(evaluated) if evaluated.exists() else {}
    if evaluation and evaluation["tuned"]["sha256"] != weights.sha256(weights.files(model)):
        evaluation = {}
    context = read_json(model / "config.json")["n_positions"]
    write_text(model / CARD, card_text(run.resolve().name, summary, evaluation, context))


def card_text(name: str, summary: RunSummary, evaluation: Json, context: int) -> str:
    """The card; `evaluation` is empty where there was none."""
    config, base = summary.config, summary.checkpoint
    template = PROMPTS[config["data"]["prompt"]]
    source = config["data"]["source"]
    data_name, data_licence = DATA.get(
        source, (Path(summary.data.path).name, "as their owner says")
    )
    models = [model for model in ("base", "tuned") if evaluation.get(model)]
    values = asdict(summary) | {
        "name": name,
        "base": base,
        "hub_base": base.source if _of_the_hub(base.source) else None,
        "data": asdict(summary.data) | {"name": data_name},
        "template": template,
        "chats": bool(template),
        "message": json.dumps(_with_input(template) or EXAMPLE.instruction),
        "with_input": _with_input(template),
        "losses": [
            (label, summary.losses[key]) for key, label in LOSSES.items() if key in summary.losses
        ],
        "evaluation": evaluation,
        "models": models,
        "scores": [
            (label, [_score(evaluation[model], key) for model in models])
            for key, label in SCORES.items()
        ],
        "context": context,
        "licence": _licence(base.source, source, data_licence),
    }
    values["scores"] = [
        line for line in values["scores"] if any(value is not None for value, _ in line[1])
    ]
    return _environment().get_template("card.md.jinja").render(values)


def _of_the_hub(source: str) -> bool:
    return bool(REPOSITORY.fullmatch(source)) and not Path(source).exists()


def _with_input(template: str) -> str | None:
    try:
        return user_message(template, EXAMPLE) if template else None
    except InputError:  # which says that there is no such message
        return None


def _score(model: Json, key: str) -> tuple[float | None, list[float] | None]:
    return model.get(key), model["intervals"].get(key)


def _licence(base: str, source: str, data: str) -> dict[str, str | None]:
    """The licence of the weights, as far as it is known, and that of the data."""
    if RELEASED.fullmatch(base):
        tag, text = (
            "mit",
            "The weights are made from OpenAI's GPT-2, which is under a modified MIT licence.",
        )
    elif base == "gpt2-nano":
        tag, text = (
            "apache-2.0",
            "The weights are made from the miniature gpt2-nano, which is under Apache-2.0.",
        )
    else:
        tag, text = None, f"The weights are made from {base}, whose licence holds for them too."
    if source == "alpaca":
        tag = "cc-by-nc-4.0"
    return {"tag": tag, "text": f"{text} The data: {data}."}


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
