"""The order of an evaluation: what is refused comes before the log and the first answer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sft.config.schema import DataConfig, EvaluateConfig, GenerateConfig, JudgeConfig
from sft.errors import InputError
from sft.evaluation.run import evaluate
from sft.scoring.results import read_records, read_summary


def config(run: Path, **settings: Any) -> EvaluateConfig:
    generate = GenerateConfig(max_new_tokens=3)
    return EvaluateConfig(
        DataConfig(), generate, run=str(run), device="cpu", precision="32", limit=2, **settings
    )


@pytest.fixture
def logged() -> list[Path]:
    return []


@pytest.fixture
def evaluated(logged: list[Path]) -> Callable[[EvaluateConfig], list[str]]:
    """Evaluate; returns the names of the models whose answers were left to processes."""

    def call(config: EvaluateConfig) -> list[str]:
        launched = []

        def launch(devices: int, function: Callable[..., None], *arguments: Any) -> None:
            assert devices == config.devices
            launched.append(arguments[-1])

        evaluate(config, [], logged.append, launch)
        return launched

    return call


def test_one_device_launches_no_process(
    run_folder: Path, evaluated: Callable[[EvaluateConfig], list[str]], logged: list[Path]
) -> None:
    assert evaluated(config(run_folder)) == []
    folder = run_folder / "evaluation"
    assert logged == [folder / "evaluate.log"]
    summary = read_summary(folder)
    rows = read_records(folder)
    assert summary.records == len(rows) == 2
    assert summary.config["run"] == str(run_folder)
    assert summary.tuned.mean("chrf") == pytest.approx(
        sum(row.tuned.metrics["chrf"] or 0 for row in rows) / 2
    )


def test_a_summary_has_the_speed_of_answers_that_were_made_for_it(
    run_folder: Path, evaluated: Callable[[EvaluateConfig], list[str]]
) -> None:
    evaluated(config(run_folder))
    for model in read_summary(run_folder / "evaluation").models.values():
        speed = model.answering
        assert speed is not None
        assert 1 <= speed.steps <= 3
        assert 2 <= speed.tokens <= 6
        assert speed.mbu > 0

    # The second time, all answers are in the file.
    evaluated(config(run_folder))
    for model in read_summary(run_folder / "evaluation").models.values():
        assert model.answering is None


def test_several_devices_are_launched_for_one_model_after_the_other(
    run_folder: Path, evaluated: Callable[[EvaluateConfig], list[str]]
) -> None:
    assert evaluated(config(run_folder, devices=2)) == ["tuned", "base"]
    # The processes answered nothing here, so this one made all answers.
    assert read_summary(run_folder / "evaluation").records == 2


@pytest.mark.parametrize(
    "judge",
    [
        JudgeConfig("ollama", "llama3", "http://127.0.0.1:9", retries=0),
        JudgeConfig("openai", "mine", "http://127.0.0.1:9", retries=0),
    ],
    ids=["ollama", "openai"],
)
def test_a_missing_judge_is_refused_before_the_folder_is_made(
    run_folder: Path,
    evaluated: Callable[[EvaluateConfig], list[str]],
    logged: list[Path],
    judge: JudgeConfig,
) -> None:
    with pytest.raises(InputError, match=r"judge\.url: "):
        evaluated(config(run_folder, judge=judge))
    assert logged == []
    assert not (run_folder / "evaluation").exists()
