"""Answers while the model trains: their numbers, the best weights by them, and early ends."""

import dataclasses
import signal
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sft.atomic import read_numbers
from sft.checkpoint.folder import load_pretrained
from sft.config.schema import EvalConfig, TrainConfig
from sft.data.prompt import prompt_tokens
from sft.data.sources import load_source
from sft.errors import InputError
from sft.gpt2.generate import complete
from sft.gpt2.tokenizer import decode
from sft.metrics import TEXT_METRICS, score
from sft.prompts import PROMPTS
from sft.summaries import read_run_summary
from sft.training.answers import ValidationAnswers
from sft.training.best import Best
from sft.training.checkpoints import read_newest
from tests.training.test_resume import equal, losses, stop_after

Config = Callable[..., TrainConfig]
Run = Callable[..., Path]

# An epoch has 3 steps. The exact match after each.
COMMON: dict[str, Any] = {"batch_size": 14, "logger": "none", "eval__every": 0}
SCRIPT = {3: 0.2, 6: 0.6, 9: 0.6, 12: 0.5, 15: 0.9, 18: 0.1}


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the answers after each epoch be as right as `SCRIPT` says."""

    def means(self: Any, trainer: Any, module: Any, note: bool = True) -> dict[str, float]:
        return dict.fromkeys(TEXT_METRICS, SCRIPT.get(trainer.global_step, 0.0))

    monkeypatch.setattr(ValidationAnswers, "means", means)


def column(folder: Path, name: str) -> dict[int, float]:
    rows = read_numbers(folder / "metrics.csv")
    return {int(row["step"]): row[name] for row in rows if name in row}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_pretrained(folder / "model").model.state_dict()


def continued(settings: TrainConfig, folder: Path) -> TrainConfig:
    return dataclasses.replace(settings, resume=str(folder))


def test_the_last_answers_are_those_of_the_kept_model(config: Config, run: Run) -> None:
    """The mean over the first validation records is computed here again, from model/."""
    settings = config(**COMMON, eval__answers=5, eval__best="chrf", optim__lr=0.01)
    folder = run(settings)
    found = column(folder, "val/chrf")
    assert list(found) == [3, 6]
    kept = max(found, key=lambda step: (found[step], -step))

    tuned = load_pretrained(folder / "model")
    source = load_source(settings.data)
    records = list(islice(source.stream(), 48, 53))
    prompts = [prompt_tokens(PROMPTS["phi3"], record, tuned.tokenizer) for record in records]
    completions = complete(tuned.model.eval(), prompts, 256, eos_id=tuned.tokenizer.eot_token)
    texts = {one.index: decode(tuned.tokenizer, one.tokens) for one in completions}
    scores = [score(texts[place], record.output) for place, record in enumerate(records)]
    for name in TEXT_METRICS:
        expected = fmean(one[name] for one in scores)
        assert column(folder, f"val/{name}")[kept] == pytest.approx(expected)


def test_answering_changes_nothing_else(config: Config, run: Run) -> None:
    common: dict[str, Any] = COMMON | {"model__dropout": 0.2, "eval__every": 2}
    plain = run(config(**common), "plain")
    asked = run(config(**common, eval__answers=2, eval__answers_every=2), "asked")
    assert list(column(asked, "val/exact_match")) == [2, 4, 6]
    assert equal(weights(plain), weights(asked))
    without = [
        {key: value for key, value in row.items() if key[4:] not in TEXT_METRICS}
        for row in losses(asked)
    ]
    assert without == losses(plain)


@pytest.mark.usefixtures("scripted")
def test_the_metric_that_is_named_chooses_the_weights(
    config: Config, run: Run, tmp_path: Path
) -> None:
    """The second epoch has the most exact matches; the loss falls in each of the three."""
    common: dict[str, Any] = COMMON | {"eval__answers": 2}
    folder = run(config(**common, epochs=3, eval__best="exact_match"), "three")
    second = run(config(**common, epochs=2), "two")
    assert equal(weights(folder), weights(second))
    whole = column(folder, "val/full_loss")
    assert min(whole, key=lambda step: whole[step]) == 9
    assert read_run_summary(folder).best_validation_loss == whole[9]

    by_loss = run(config(**common, epochs=3), "by-loss")
    assert not equal(weights(by_loss), weights(folder))


@pytest.mark.usefixtures("scripted")
def test_a_run_out_of_patience_ends_and_one_with_more_goes_on_as_if_it_had_not(
    config: Config, run: Run
) -> None:
    """Two epochs after the second are no better. The fifth would be."""
    common: dict[str, Any] = COMMON | {"epochs": 6, "eval__answers": 2}
    common["eval__best"] = "exact_match"
    settings = config(**common, eval__patience=2)
    folder = run(settings, "short")
    summary = read_run_summary(folder)
    assert (summary.steps, summary.epochs) == (12, 4.0)
    assert list(column(folder, "val/full_loss")) == [3, 6, 9, 12]

    # Started again it stays as it is, and says why.
    run(continued(settings, folder), "short")
    assert "eval.patience" in (folder / "train.log").read_text()
    assert read_run_summary(folder).steps == 12

    run(continued(config(**common, eval__patience=3), folder), "short")
    whole = run(config(**common, eval__patience=3), "long")
    assert read_run_summary(whole).steps == 18
    assert losses(folder) == losses(whole)
    assert equal(weights(folder), weights(whole))


@pytest.mark.usefixtures("scripted")
def test_patience_counts_what_a_killed_run_had_seen(config: Config, run: Run) -> None:
    common: dict[str, Any] = COMMON | {"epochs": 6, "eval__answers": 2}
    settings = config(**common, eval__best="rouge_l", eval__patience=2)
    whole = run(settings, "whole")
    stop_after(9, lambda: run(settings, "parts"))
    folder = whole.parent / "parts"
    run(continued(settings, folder), "parts")
    assert losses(folder) == losses(whole)
    assert equal(weights(folder), weights(whole))


def test_patience_inside_an_epoch_ends_with_a_validation(
    config: Config, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def means(self: Any, trainer: Any, module: Any, note: bool = True) -> dict[str, float]:
        return dict.fromkeys(TEXT_METRICS, 0.5)

    monkeypatch.setattr(ValidationAnswers, "means", means)
    common = COMMON | {"eval__answers": 2, "eval__answers_every": 2, "eval__every": 5}
    settings = config(**common, epochs=3, eval__best="chrf", eval__patience=1)
    folder = run(settings)
    assert list(column(folder, "val/chrf")) == [2, 4]
    assert list(column(folder, "val/full_loss")) == [3, 4]
    assert list(column(folder, "val/loss")) == [0, 4]
    assert read_run_summary(folder).steps == 4
    assert read_newest(folder)[1]["global_step"] == 4


def test_patience_goes_by_the_loss_without_any_answers(config: Config, run: Run) -> None:
    """At so small a learning rate the loss stays as it is."""
    common = COMMON | {"eval__every": 2, "epochs": 5}
    folder = run(config(**common, optim__lr=1e-30, eval__patience=2))
    assert list(column(folder, "val/full_loss")) == [3, 6, 9]
    assert list(column(folder, "val/loss")) == [0, 2, 4, 6, 8, 9]


def test_answers_that_a_signal_interrupts_are_repeated_by_the_resumed_run(
    config: Config, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(**COMMON, eval__answers=4, eval__answers_every=2, eval__best="chrf")
    whole = run(settings, "whole")

    honest = ValidationAnswers._answer

    def interrupted(self: Any, trainer: Any, module: Any, model: Any) -> Any:
        if trainer.global_step == 4:
            module.signals.noted = signal.SIGTERM
        return honest(self, trainer, module, model)

    with monkeypatch.context() as patch:
        patch.setattr(ValidationAnswers, "_answer", interrupted)
        with pytest.raises(SystemExit):
            run(settings, "parts")
    folder = whole.parent / "parts"
    assert list(column(folder, "val/chrf")) == [2]
    run(continued(settings, folder), "parts")
    assert losses(folder) == losses(whole)
    assert equal(weights(folder), weights(whole))


def test_averaged_weights_are_judged_by_the_same_number() -> None:
    best = Best(EvalConfig(answers=2, best="rouge_l", patience=2))
    best.see_scores({"rouge_l": 0.3}, {"rouge_l": 0.4})
    assert (best.unsaved, best.value) == ("averaged", -0.4)
    best.unsaved = None
    best.see_scores({"rouge_l": 0.4}, {})
    assert (best.unsaved, best.without_better, best.exhausted) == (None, 1, False)
    best.see_losses(0.1, 0.2)
    assert (best.lowest_loss, best.unsaved, best.without_better) == (0.1, None, 1)
    best.see_scores({"rouge_l": 0.1}, {"rouge_l": 0.2})
    assert best.exhausted


def test_trackers_get_the_means_and_a_table_of_the_texts(config: Config, run: Run) -> None:
    folder = run(config(max_steps=2, eval__answers=3, eval__every=0))
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    [mean] = events.Scalars("val/chrf")
    assert mean.step == 2
    assert mean.value == pytest.approx(column(folder, "val/chrf")[2])
    [table] = events.Tensors("answers/text_summary")
    text = table.tensor_proto.string_val[0].decode()
    assert text.startswith("question | expected | answer | exact_match")
    assert len(text.splitlines()) == 5


def test_answers_without_a_validation_record_are_refused(config: Config, run: Run) -> None:
    for changes in ({"eval__answers": 2}, {"eval__patience": 2}):
        with pytest.raises(InputError, match=next(iter(changes)).replace("__", ".")):
            run(config(data__split=[0.9, 0.1, 0.0], **changes))
