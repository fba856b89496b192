"""Where a run's numbers go besides its folder. W&B and MLflow themselves: tests/tracking."""

import csv
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from sft.atomic import read_numbers
from sft.config.schema import TrainConfig
from sft.errors import InputError
from sft.training import trackers
from sft.training.checkpoints import last, read_newest
from sft.training.resume import Past
from sft.training.trackers import RemoteLogger

Config = Callable[..., TrainConfig]
Run = Callable[..., Path]


class Flaky(CSVLogger):
    """A tracker behind a network, made of CSV files, that fails after so many rows."""

    def __init__(self, folder: Path, rows: int) -> None:
        super().__init__(folder, name="", version="far")
        self.rows = rows

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:  # type: ignore[override]
        self.rows -= 1
        if self.rows < 0:
            raise ConnectionError("the line\nis dead")
        super().log_metrics(dict(metrics), step)


def far(monkeypatch: pytest.MonkeyPatch, rows: int) -> list[str | None]:
    """Put a Flaky in MLflow's place; return the names under which runs are resumed."""
    names: list[str | None] = []

    def make(folder: Path, run_id: str | None) -> Any:
        names.append(run_id)
        return Flaky(folder, rows)

    monkeypatch.setattr(trackers, "_mlflow", make)
    return names


def test_the_hparams_tab_has_the_settings_and_the_final_numbers(config: Config, run: Run) -> None:
    folder = run(config(max_steps=3))
    files = (folder / "tensorboard").glob("events*")
    found: dict[str, Any] = {}
    scalars: dict[str, float] = {}
    for path in files:
        events = EventAccumulator(str(path)).Reload()
        for tag, content in events.summary_metadata.items():
            if content.plugin_data.plugin_name == "hparams":
                found[tag] = HParamsPluginData.FromString(content.plugin_data.content)
        scalars |= {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]}
    settings = found["_hparams_/session_start_info"].session_start_info.hparams
    assert settings["optim/lr"].number_value == 1e-3
    assert settings["batch_size"].number_value == 4
    row = read_numbers(folder / "metrics.csv")[-1]
    assert scalars["final/train_loss"] == pytest.approx(row["train/loss"])
    best = json.loads((folder / "summary.json").read_text())["best_validation_loss"]
    assert (
        scalars["final/best_validation"]
        == pytest.approx(best)
        == pytest.approx(row["val/full_loss"])
    )
    named = {metric.name.tag for metric in found["_hparams_/experiment"].experiment.metric_infos}
    assert named >= {"final/train_loss", "final/best_validation"}


def test_the_csv_tracker_has_the_rows_and_settings(config: Config, run: Run) -> None:
    folder = run(config(logger="csv", max_steps=3))
    assert not (folder / "tensorboard").exists()
    ours = read_numbers(folder / "metrics.csv")
    with (folder / "csv" / "metrics.csv").open(newline="") as file:
        theirs = list(csv.DictReader(file))
    assert [float(row["train/loss"]) for row in theirs if row["train/loss"]] == [
        row["train/loss"] for row in ours[1:]
    ]
    assert "lr: 0.001" in (folder / "csv" / "hparams.yaml").read_text()


@pytest.mark.parametrize("kind", ["csv", "tensorboard"])
def test_repeated_steps_are_tracked_once(config: Config, run: Run, kind: str) -> None:
    folder = run(config(logger=kind, max_steps=4, checkpoint__every=2))
    last(folder).unlink()
    assert read_newest(folder)[1]["global_step"] == 2
    time.sleep(
        1 - time.time() % 1
    )  # TensorBoard reads its files in the order of their names, which hold the second
    run(config(logger=kind, max_steps=6, resume=str(folder)))
    if kind == "csv":
        with (folder / "csv" / "metrics.csv").open(newline="") as file:
            steps = [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]
    else:
        events = EventAccumulator(str(folder / "tensorboard")).Reload()
        steps = [event.step for event in events.Scalars("train/loss")]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_without_a_tracker_only_metrics_csv_is_written(config: Config, run: Run) -> None:
    folder = run(config(logger="none", max_steps=2, eval__sample=True))
    assert not (folder / "tensorboard").exists()
    assert len(read_numbers(folder / "metrics.csv")) == 3


@pytest.mark.parametrize("kind", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_refused(
    config: Config, run: Run, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(f"lightning.pytorch.loggers.{kind}._{kind.upper()}_AVAILABLE", False)
    with pytest.raises(InputError, match=rf"^logger: {kind} is not installed; .*\[{kind}\]"):
        run(config(logger=kind))
    assert list(Path("run").iterdir()) == []


def test_a_tracker_that_does_not_answer_is_refused(
    config: Config, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path, run_id: str | None) -> Any:
        raise ConnectionError("no\nanswer from http://me:secret@there/x")

    monkeypatch.setattr(trackers, "_mlflow", refuse)
    with pytest.raises(
        InputError,
        match=r"^logger: mlflow .*\(no answer from http://…@there/x\).*\blogger=$",
    ):
        run(config(logger="mlflow"))
    assert list(Path("run").iterdir()) == []


def test_a_tracker_that_fails_later_does_not_end_the_run(
    config: Config, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    far(monkeypatch, rows=2)
    folder = run(config(logger="mlflow", max_steps=4))
    assert len(read_numbers(folder / "metrics.csv")) == 5
    assert (folder / "summary.json").exists()
    warning = (
        "mlflow failed (the line is dead); it gets no more numbers; metrics.csv has all of them"
    )
    assert (folder / "train.log").read_text().count(warning) == 1


def test_a_resumed_run_keeps_its_name_in_the_tracker(
    config: Config, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = far(monkeypatch, rows=100)
    folder = run(config(logger="mlflow", max_steps=2))
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["tracked"] == {
        "mlflow": "far"
    }
    run(config(logger="mlflow", max_steps=3, resume=str(folder)))
    run(config(logger="none", max_steps=4, resume=str(folder)))
    assert names == [None, "far"]
    assert isinstance(trackers.make_tracker("mlflow", folder, Past()), RemoteLogger)
