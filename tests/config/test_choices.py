"""Every combination of choices composes, and the published recipes are what they were."""

import itertools
from typing import Any

import pytest

from sft.config.schema import TrainConfig
from tests.config.composing import CONF, composed

MODELS = ("gpt2-nano", "gpt2-small", "gpt2-medium", "gpt2-large", "gpt2-xl")
DATA = ("nano", "instructions", "alpaca", "file", "json", "hub")
PRETRAINING = {"nano-base": "build/nano/untrained", "nano-lessons": "build/nano/stories/model"}
EXPERIMENTS = ("book", "alpaca-1k", "alpaca-52k", "masked", "phi3", "lora", "dpo", *PRETRAINING)

CHECKPOINTS = {name: f"openai-community/{name}" for name in MODELS} | {
    "gpt2-nano": "gpt2-nano",
    "gpt2-small": "openai-community/gpt2",
}


def chosen(config: TrainConfig) -> tuple[str, str]:
    return config.model.checkpoint, config.data.source


def test_a_group_has_a_choice_that_is_not_tested_here() -> None:
    for group, names in (
        ("model", MODELS),
        ("data", DATA),
        ("experiment", EXPERIMENTS),
        ("sweep", ("grid", "optuna")),
    ):
        assert {path.stem for path in (CONF / group).glob("*.yaml")} == set(names)


@pytest.mark.parametrize("experiment", [None, *EXPERIMENTS])
def test_every_combination_composes_and_the_command_line_wins(experiment: str | None) -> None:
    recipe = [f"experiment={experiment}"] if experiment else []
    for model, data in itertools.product(MODELS, DATA):
        path = ["data.path=/mine.json"] if data in ("file", "json", "hub") else ["data.path=null"]
        config = composed("train", *recipe, f"model={model}", f"data={data}", *path)
        checkpoint = PRETRAINING.get(experiment or "", CHECKPOINTS[model])
        assert chosen(config) == (checkpoint, data)


MEDIUM = "openai-community/gpt2-medium"


@pytest.mark.parametrize(
    ("name", "expected", "changes"),
    [
        ("book", (MEDIUM, "instructions"), {}),
        (
            "alpaca-1k",
            ("openai-community/gpt2", "alpaca"),
            {"sample": 1000, "split": [0.8, 0.1, 0.1]},
        ),
        ("alpaca-52k", (MEDIUM, "alpaca"), {}),
        ("masked", (MEDIUM, "instructions"), {"mask_prompt": True}),
        ("phi3", (MEDIUM, "instructions"), {"prompt": "phi3"}),
    ],
)
def test_a_published_recipe_is_what_it_was(
    name: str, expected: tuple[str, str], changes: dict[str, Any]
) -> None:
    config = composed("train", f"experiment={name}")
    assert chosen(config) == expected
    plain = composed("train", "model=gpt2-medium", f"data={config.data.source}")
    assert vars(config.data) == vars(plain.data) | changes
    assert (config.optim, config.eval, config.batch_size, config.epochs) == (
        plain.optim,
        plain.eval,
        8,
        2,
    )


@pytest.mark.parametrize("data", DATA)
def test_evaluate_takes_the_data_sets_of_train(data: str) -> None:
    path = ["data.path=/mine.json"] if data in ("file", "json", "hub") else []
    config = composed("evaluate", f"data={data}", "checkpoint=x", "out=y", *path)
    assert (config.data.source, config.data.path) == (data, "/mine.json" if path else None)
