"""A run is killed, or asked to stop, and goes on as if nothing had been."""

import dataclasses
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from sft.config import TrainConfig
from sft.training.checkpoints import last, read_newest
from sft.training.resume import resumed_config
from tests.training.processes import begin, end_all, train
from tests.training.test_resume import equal, losses

Config = Callable[..., TrainConfig]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    end_all()


def resumed(config: TrainConfig, folder: Path) -> TrainConfig:
    return resumed_config(dataclasses.replace(config, resume=str(folder)), [])


def wait_for_rows(folder: Path, rows: int, timeout: float = 60) -> None:
    """Until `metrics.csv` has so many lines."""
    end = time.monotonic() + timeout
    while not (folder / "metrics.csv").exists() or (folder / "metrics.csv").read_bytes().count(b"\n") < rows:
        assert time.monotonic() < end, "the run does not get on"
        time.sleep(0.01)


def log_of(folder: Path) -> str:
    return (folder / "train.log").read_text()


def check_the_same(folder: Path, whole: Path) -> None:
    """Weights, optimizer, schedule and logged losses, bit for bit."""
    ends = [torch.load(last(path), weights_only=True) for path in (folder, whole)]
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert equal(ends[0][key], ends[1][key]), key
    assert losses(folder) == losses(whole)


@pytest.mark.parametrize(("ranks", "told"), [(1, (0,)), (2, (1,)), (2, (0, 1))])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_any_rank_ends_all_with_a_checkpoint(
    config: Config, tmp_path: Path, ranks: int, told: tuple[int, ...], number: signal.Signals
) -> None:
    common = {"model__dropout": 0.1, "batch_size": 2, "epochs": 2, "data__workers": 1, "eval__every": 0}
    folder, settings = tmp_path / "run", config(**common)
    for process in begin(settings, folder, ranks, told, number):
        process.join(30)
        assert process.exitcode == 128 + number
    path, past = read_newest(folder)
    assert path == last(folder)
    assert past["global_step"] == 4
    assert losses(folder)[-1]["step"] == 4
    assert f"{number.name}: stopped after step 4; python train.py resume=run goes on" in log_of(folder)
    if told == (0,):
        train(resumed(settings, folder), folder, ranks)
        train(settings, tmp_path / "whole", ranks)
        check_the_same(folder, tmp_path / "whole")


def test_a_second_ctrl_c_leaves_at_once(config: Config, tmp_path: Path) -> None:
    [process] = begin(config(batch_size=1, epochs=1, data__workers=1, eval__every=0), tmp_path / "run")
    wait_for_rows(tmp_path / "run", 2)
    os.kill(process.pid or 0, signal.SIGSTOP)  # in the middle of a step, however long that takes
    os.kill(process.pid or 0, signal.SIGINT)
    os.kill(process.pid or 0, signal.SIGCONT)
    process.join(30)
    assert process.exitcode == 130


@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_again_and_again(config: Config, tmp_path: Path, ranks: int) -> None:
    """kill -9 at random moments, with a checkpoint at every step, so that many are being written."""
    common = {"model__dropout": 0.1, "batch_size": 4 // ranks, "epochs": 4, "eval__every": 0, "checkpoint__every": 1}
    settings, folder, chance = config(**common), tmp_path / "run", random.Random(ranks)
    for kill in range(5):
        processes = begin(resumed(settings, folder) if kill else settings, folder, ranks)
        wait_for_rows(folder, 2 + 6 * kill + chance.randrange(1, 5))  # at most 4 steps back, 6 to the next
        time.sleep(0.05 * chance.random())
        assert processes[chance.randrange(ranks)].exitcode is None
        for process in processes:
            process.kill()
            process.join()
    train(resumed(settings, folder), folder, ranks)
    train(settings, tmp_path / "whole", ranks)
    check_the_same(folder, tmp_path / "whole")
