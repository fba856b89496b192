"""Which defaults are in force, for every model, data set and experiment."""

import dataclasses
import itertools
from pathlib import Path

import pytest

from sft.config.schema import GenerateConfig, JudgeConfig, LoraConfig, TrainConfig
from tests.config.composing import composed

MODELS = {
    "gpt2-nano": "gpt2-nano",
    "gpt2-small": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
}
DATA = ("nano", "instructions", "alpaca", "file", "json", "hub")
NANO = (1e-4, True)
DOCUMENTED = (5e-5, False)


def given(data: str) -> list[str]:
    return [f"data={data}"] + ["data.path=mine.json"] * (data in ("file", "json", "hub"))


def recipe(config: TrainConfig) -> tuple[float, bool]:
    return config.optim.lr, config.data.mask_prompt


@pytest.mark.parametrize(("model", "data"), itertools.product(MODELS, DATA))
def test_nanos_recipe_goes_with_nanos_data_alone(model: str, data: str) -> None:
    config = composed("train", f"model={model}", *given(data))
    assert (config.model.checkpoint, config.data.source) == (MODELS[model], data)
    assert recipe(config) == (NANO if data == "nano" else DOCUMENTED)


@pytest.mark.parametrize("data", DATA)
def test_data_alone_decides_as_with_the_default_model(data: str) -> None:
    assert composed("train", *given(data)) == composed("train", "model=gpt2-nano", *given(data))


@pytest.mark.parametrize("model", MODELS)
def test_a_model_brings_its_data(model: str) -> None:
    config = composed("train", f"model={model}")
    nano = model == "gpt2-nano"
    assert config.data.source == ("nano" if nano else "instructions")
    assert recipe(config) == (NANO if nano else DOCUMENTED)


@pytest.mark.parametrize("overrides", [(), ("model=gpt2-nano",), ("data=nano",)])
def test_three_ways_to_the_nano_run(overrides: tuple[str, ...]) -> None:
    config = composed("train", *overrides)
    assert (config.model.checkpoint, config.data.source) == ("gpt2-nano", "nano")
    assert recipe(config) == NANO


@pytest.mark.parametrize("model", MODELS)
def test_nanos_recipe_can_be_left_out_or_overridden(model: str) -> None:
    assert recipe(composed("train", f"model={model}", "data=nano", "recipe=none")) == DOCUMENTED
    config = composed(
        "train", f"model={model}", "data=nano", "optim.lr=3e-4", "data.mask_prompt=false"
    )
    assert recipe(config) == (3e-4, False)


# For each experiment: checkpoint, data, learning rate, mask.
EXPERIMENTS = {
    "book": ("gpt2-medium", "instructions", 5e-5, False),
    "alpaca-1k": ("gpt2-small", "alpaca", 5e-5, False),
    "alpaca-52k": ("gpt2-medium", "alpaca", 5e-5, False),
    "masked": ("gpt2-medium", "instructions", 5e-5, True),
    "phi3": ("gpt2-medium", "instructions", 5e-5, False),
    "lora": ("gpt2-nano", "nano", 1e-3, True),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_sets_what_it_says(name: str) -> None:
    model, data, *expected = EXPERIMENTS[name]
    config = composed("train", f"experiment={name}")
    assert (config.model.checkpoint, config.data.source) == (MODELS[model], data)
    assert recipe(config) == tuple(expected)


@pytest.mark.parametrize(("name", "data"), itertools.product(EXPERIMENTS, DATA))
def test_an_experiment_on_other_data_takes_that_datas_recipe(name: str, data: str) -> None:
    lr, mask = recipe(composed("train", f"experiment={name}", *given(data)))
    nano = data == "nano"
    assert lr == (1e-3 if name == "lora" else 1e-4 if nano else 5e-5)
    assert mask is (nano or name == "masked")


def test_nano_is_pretrained_by_its_own_recipe() -> None:
    config = composed("train", "experiment=nano-base")
    assert (config.model.checkpoint, config.data.source) == ("build/nano/untrained", "json")
    assert (config.data.prompt, config.model.allow_untrained) == ("none", True)
    assert recipe(config) == (2e-3, False)

    later = composed("train", "experiment=nano-lessons")
    assert later.model.checkpoint == "build/nano/stories/model"
    assert later.data.paths()[0].endswith("build/nano/lessons.jsonl")
    assert (later.model.allow_untrained, later.optim.schedule) == (False, "cosine")
    assert recipe(later) == (1e-3, False)


def test_the_published_defaults() -> None:
    config = composed("train", "model=gpt2-medium")
    assert (config.model.checkpoint, config.model.revision) == (MODELS["gpt2-medium"], None)
    assert (config.model.dropout, config.model.allow_untrained) == (0.0, False)
    assert (config.data.source, config.data.prompt) == ("instructions", None)
    assert config.data.mask_prompt is False
    assert (config.data.split, config.data.sample_seed) == ([0.85, 0.1, 0.05], 123)
    assert config.data.shuffle is True
    assert (config.optim.lr, config.optim.weight_decay) == (5e-5, 0.1)
    assert (config.optim.betas, config.optim.schedule) == ([0.9, 0.999], "constant")
    assert (config.optim.warmup_steps, config.optim.grad_clip) == (0, None)
    assert (config.batch_size, config.accumulate, config.epochs, config.max_steps) == (8, 1, 2, -1)
    assert (config.eval.every, config.eval.batches, config.eval.sample) == (5, 5, True)
    assert config.seed == 123


def test_the_defaults_of_evaluation() -> None:
    config = composed("evaluate")
    assert (config.run, config.split, config.batch_size) == ("outputs/latest", "test", 32)
    assert dataclasses.astuple(config.generate)[:3] == (256, 0.0, None)
    assert config.generate == GenerateConfig()
    assert config.judge.kind == "none"


def test_the_judges_defaults() -> None:
    ollama = composed("evaluate", "judge=ollama").judge
    assert (ollama.model, ollama.url) == ("llama3", "http://localhost:11434")
    openai = composed("evaluate", "judge=openai", "judge.model=mine").judge
    assert (openai.model, openai.url) == ("mine", "http://localhost:8000/v1")
    for kind, config in (("ollama", ollama), ("openai", openai)):
        assert config == JudgeConfig(kind=kind, model=config.model, url=config.url)
    assert (ollama.audit, ollama.min_coverage, ollama.retries, ollama.seed) == (20, 0.9, 4, 123)


def test_the_adapters_defaults(tmp_path: Path) -> None:
    plain = composed("train")
    assert plain.lora == LoraConfig("none", 8, 16.0, 0.0, ["c_attn", "c_proj", "c_fc"])
    adapted = composed("train", "lora=default")
    assert adapted.lora == dataclasses.replace(plain.lora, kind="default")
    tuned = composed("train", "experiment=lora", "model=gpt2-xl", "lora.rank=4")
    assert (tuned.lora.kind, tuned.lora.rank, tuned.optim.lr) == ("default", 4, 1e-3)
    assert tuned.model.checkpoint == MODELS["gpt2-xl"]
