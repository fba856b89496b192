"""A run that is killed or signalled and then resumed is the run that was left alone."""

import dataclasses
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import train
from sft.config.schema import TrainConfig
from sft.training.checkpoints import last, read_newest
from sft.training.module import InstructionTuner
from sft.training.resume import resumed_config
from sft.training.signals import Signals, Votes
from tests.training.processes import begin, finish
from tests.training.test_resume import equal, losses

Config = Callable[..., TrainConfig]
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that were not interrupted, to compare others with."""
    return tmp_path_factory.mktemp("wholes")


def resumed(config: TrainConfig, folder: Path) -> TrainConfig:
    return resumed_config(dataclasses.replace(config, resume=str(folder)), [])


def wait_for_rows(folder: Path, rows: int, timeout: float = 60) -> None:
    """Until `metrics.csv` has so many lines."""
    end = time.monotonic() + timeout
    while (
        not (folder / "metrics.csv").exists()
        or (folder / "metrics.csv").read_bytes().count(b"\n") < rows
    ):
        assert time.monotonic() < end, "the run does not get on"
        time.sleep(0.01)


def log_of(folder: Path) -> str:
    return (folder / "train.log").read_text()


def check_the_same(folder: Path, whole: Path) -> None:
    """Weights, optimizer, schedule and logged losses, bit for bit."""
    check_weights(folder, whole)
    assert losses(folder) == losses(whole)


def check_weights(folder: Path, whole: Path) -> None:
    ends = [torch.load(last(path), weights_only=True) for path in (folder, whole)]
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert equal(ends[0][key], ends[1][key]), key


@pytest.mark.parametrize(
    ("ranks", "told", "number"),
    [
        (1, (0,), signal.SIGTERM),
        (2, (1,), signal.SIGTERM),
        (2, (1,), signal.SIGINT),
        (2, (0, 1), signal.SIGINT),
    ],
)
def test_a_signal_to_any_rank_ends_all_with_a_checkpoint(
    config: Config, tmp_path: Path, ranks: int, told: tuple[int, ...], number: signal.Signals
) -> None:
    common = {
        "model__dropout": 0.1,
        "batch_size": 2,
        "epochs": 2,
        "data__workers": 1,
        "eval__every": 0,
    }
    folder, settings = tmp_path / "run", config(**common)
    for process in begin(settings, folder, ranks, told=told, number=number):
        process.join(120)
        assert process.exitcode == 128 + number
    path, past = read_newest(folder)
    assert path == last(folder)
    assert past["global_step"] == 4
    assert losses(folder)[-1]["step"] == 4
    assert re.search(rf"{number.name}: stopped after step 4; .*resume=run\b", log_of(folder))
    if told == (0,):
        finish(resumed(settings, folder), folder, ranks)
        finish(settings, tmp_path / "whole", ranks)
        check_the_same(folder, tmp_path / "whole")


@pytest.mark.parametrize(
    ("ranks", "within", "changes", "step"),
    # An epoch has 11 steps, and 3 batches of validation. Before training the module is called once,
    # and twice for row 0.
    [
        (1, ("validation_step", 2), {}, 11),
        (2, ("validation_step", 2), {}, 11),
        (2, ("mean_loss", 5), {}, 2),
        (1, ("validation_step", 5), {}, 22),
        (2, ("mean_loss", 5), {"max_steps": 2}, 2),
        (1, ("mean_loss", 3), {"max_steps": 2, "data__mask_prompt": True}, 2),
        (2, ("mean_loss", 1), {}, 0),
        (2, ("mean_loss", 5), {"strategy": "fsdp"}, 2),
    ],
)
def test_an_interrupted_loss_probe_is_repeated_by_the_resumed_run(
    config: Config,
    tmp_path: Path,
    wholes: Path,
    ranks: int,
    within: tuple[str, int],
    changes: dict[str, Any],
    step: int,
) -> None:
    common = {"model__dropout": 0.1, "batch_size": 4 // ranks, "epochs": 2} | changes
    folder, settings = tmp_path / "run", config(**common)
    for process in begin(
        settings, folder, ranks, told=(ranks - 1,), number=signal.SIGTERM, within=within
    ):
        process.join(120)
        assert process.exitcode == 143
    if step == 0:
        assert losses(folder) == []
        assert not last(folder).exists()
    else:
        # The row of the step waits for its probe.
        assert losses(folder)[-1]["step"] == step - 1
        assert read_newest(folder)[1]["global_step"] == step
        settings = resumed(settings, folder)
    where = f"after step {step};" if step else "before the first step"
    assert f"SIGTERM: stopped {where}" in log_of(folder)
    finish(settings, folder, ranks)
    whole = wholes / f"{ranks}{changes}"
    if not whole.exists():
        finish(config(**common), whole, ranks)
    check_the_same(folder, whole)
    best, expected = ((path / "model/model.safetensors").read_bytes() for path in (folder, whole))
    assert best == expected


def sleep_in_step(config: TrainConfig, folder: Path) -> None:
    """The run, whose second step takes an hour."""
    honest, taken = InstructionTuner.training_step, count(1)

    def slow(self: InstructionTuner, *arguments: Any) -> torch.Tensor:
        for _ in range(36000 if next(taken) == 2 else 0):
            (folder / "asleep").touch()
            time.sleep(0.1)
        return honest(self, *arguments)

    InstructionTuner.training_step = slow  # type: ignore[method-assign]
    folder.mkdir()
    train.fit(config, folder)


def test_a_second_ctrl_c_leaves_at_once(config: Config, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    [process] = begin(config(batch_size=1, epochs=1, eval__every=0), folder, function=sleep_in_step)
    while not (folder / "asleep").exists():
        time.sleep(0.05)
    os.kill(process.pid or 0, signal.SIGINT)
    os.kill(
        process.pid or 0, signal.SIGINT
    )  # so soon, it is the launcher that hands on the same Ctrl-C
    process.join(1.2)
    assert process.exitcode is None
    os.kill(process.pid or 0, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize(  # stop: steps of one micro-batch; an epoch has 11
    ("ranks", "workers", "stop", "accumulate"),
    [(2, 2, 11, 4), (2, 0, 5, 4), (2, 2, 5, 1), (4, 0, 4, 1)],
)
def test_a_resumed_run_of_several_ranks_equals_an_uninterrupted_one(
    config: Config, tmp_path: Path, ranks: int, workers: int, stop: int, accumulate: int
) -> None:
    common = {
        "model__dropout": 0.2,
        "batch_size": 2,
        "accumulate": accumulate,
        "data__workers": workers,
    }
    stop = stop if accumulate == 1 else {11: 3, 5: 1}[stop]
    settings = config(**common, epochs=2)
    finish(settings, tmp_path / "whole", ranks)
    folder = tmp_path / "parts"
    finish(config(**common, epochs=2, max_steps=stop), folder, ranks)
    assert read_newest(folder)[1]["global_step"] == stop
    finish(dataclasses.replace(settings, resume=str(folder)), folder, ranks)
    check_weights(folder, tmp_path / "whole")
    whole = {row["step"]: row for row in losses(tmp_path / "whole")}
    for row in losses(folder):  # that of the halt has probes that the other run did not take
        assert row.items() >= whole[row["step"]].items()
    assert len(losses(folder)) == len(whole)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_killed_at_random_moments_equals_an_uninterrupted_one(
    config: Config, tmp_path: Path, ranks: int
) -> None:
    """kill -9 at random moments; with a checkpoint at every step, many are being written."""
    common = {
        "model__dropout": 0.1,
        "batch_size": 4 // ranks,
        "epochs": 4,
        "eval__every": 0,
        "checkpoint__every": 1,
    }
    settings, folder, chance = config(**common), tmp_path / "run", random.Random(ranks)
    for kill in range(3):
        processes = begin(resumed(settings, folder) if kill else settings, folder, ranks)
        wait_for_rows(
            folder, 2 + 6 * kill + chance.randrange(1, 5)
        )  # at most 4 steps back, 6 to the next
        time.sleep(0.05 * chance.random())
        assert processes[chance.randrange(ranks)].exitcode is None
        for process in processes:
            process.kill()
            process.join()
    finish(resumed(settings, folder), folder, ranks)
    finish(settings, tmp_path / "whole", ranks)
    check_the_same(folder, tmp_path / "whole")


class TwoRanks:
    """A strategy of two ranks, of which this one is the first."""

    root_device = torch.device("cpu")

    def __init__(self, other: list[float]) -> None:
        self.other = torch.tensor(other)

    def reduce(self, tensor: torch.Tensor, reduce_op: str) -> torch.Tensor:
        assert reduce_op == "sum"
        return tensor + self.other


@pytest.mark.parametrize(
    ("other", "agreed", "due"),
    [
        ({}, None, False),
        ({"sigint": 1}, signal.SIGINT, False),
        ({"sigterm": 1}, signal.SIGTERM, False),
        ({"sigint": 1, "sigterm": 1}, signal.SIGINT, False),
        ({"checkpoint_due": 1}, None, True),
    ],
)
def test_a_rank_agrees_on_what_only_the_other_noted(
    other: dict[str, float], agreed: signal.Signals | None, due: bool
) -> None:
    signals = Signals()
    votes = Votes(**(dict.fromkeys(Votes._fields, 0.0) | other))
    strategy: Any = TwoRanks([2.5, 1.0, *votes])
    assert signals.agree_at_step(torch.tensor([1.5, 2.0]), strategy) == [4.0, 3.0]
    assert signals.agreed == agreed
    assert signals.checkpoint_due is due
    assert not signals.interrupted

    trainer: Any = SimpleNamespace(world_size=2, strategy=TwoRanks([*votes]))
    probed = Signals()
    assert probed.agree_in_probe(trainer) == (agreed is not None)
    assert probed.agreed == agreed
    assert probed.interrupted == (agreed is not None)


def test_a_signal_is_heeded_only_while_the_run_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    signals = Signals()
    signals.noted = signal.SIGTERM
    assert signals.own() is None
    signals.listen()
    assert signals.own() == signal.SIGTERM
    with pytest.raises(SystemExit) as end:
        signals.leave_if_noted()
    assert end.value.code == 143


def test_without_a_signal_nobody_leaves() -> None:
    Signals().leave_if_noted()


def test_a_signal_that_only_another_rank_noted_ends_this_one_too() -> None:
    signals = Signals()
    signals.agreed = signal.SIGINT
    signals.leave_if_noted()
    with pytest.raises(SystemExit) as end:
        signals.leave_together()
    assert end.value.code == 130


def test_a_rank_whose_launcher_died_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    alone = Signals()
    monkeypatch.setenv("LOCAL_RANK", "0")
    rank = Signals()
    for process in (alone, rank):
        process.listen()
    assert rank.own() is None
    monkeypatch.setattr("os.getppid", lambda: 1)
    assert rank.own() == signal.SIGTERM
    assert alone.own() is None  # whoever started it may go: nohup, disown


class Launched:
    """`python train.py` on two processes, on the tiny model, in a folder that stays the same."""

    def __init__(self, checkpoint: Path, records: Path) -> None:
        settings = [
            f"model.checkpoint={checkpoint}",
            "model.allow_untrained=true",
            "eval.every=0",
            "eval.sample=false",
        ]
        settings += [
            "data=json",
            f"data.path={records}",
            "device=cpu",
            "devices=2",
            "precision=32",
            "batch_size=1",
        ]
        settings += ["epochs=400", "max_steps=2000", "resume=auto", "hydra.run.dir=run"]
        command = [sys.executable, str(ROOT / "train.py"), *settings]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self.folder = Path("run")

    def ranks(self) -> list[int]:
        children = (
            Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        )
        return [
            pid
            for pid in map(int, children)
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    def end(self) -> tuple[int, str]:
        """The exit code and the last line of what was said, five minutes from now at the latest."""
        _, said = self.process.communicate(timeout=300)
        return self.process.returncode, said.replace("\r", "\n").strip().splitlines()[-1]


def test_a_signal_to_the_launcher_reaches_the_ranks(checkpoint: Path, records_file: Path) -> None:
    """A signal to it alone reaches the ranks."""
    run = Launched(checkpoint, records_file)
    wait_for_rows(run.folder, 3)
    ranks = run.ranks()
    assert len(ranks) == 2
    run.process.terminate()
    assert run.end()[0] == 143
    assert f"SIGTERM: stopped after step {read_newest(run.folder)[1]['global_step']}" in log_of(
        run.folder
    )
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)
