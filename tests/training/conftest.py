"""Runs of a tiny model on tiny data, through the very function that train.py calls."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import train
from sft.config.loading import from_dict
from sft.config.schema import TrainConfig
from tests.training.processes import end_all

WORDS = [
    "the",
    "chef",
    "cooks",
    "a",
    "meal",
    "every",
    "day",
    "and",
    "it",
    "rains",
    "on",
    "trees",
    "birds",
    "fish",
    "Paris",
    "France",
    "capital",
]


@pytest.fixture(scope="session")
def records_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 records whose answers differ much in length, so that a mean of means is not the mean."""
    records = []
    for i in range(60):
        answer = " ".join(WORDS[(i * 7 + j * j) % len(WORDS)] for j in range(1 + (i * i) % 11))
        records.append(
            {
                "instruction": f"{WORDS[i % 17]} {WORDS[(i * 5) % 17]}?",
                "input": "",
                "output": answer,
            }
        )
    path = tmp_path_factory.mktemp("data") / "records.json"
    path.write_text(json.dumps(records))
    return path


@pytest.fixture
def config(checkpoint: Path, records_file: Path) -> Callable[..., TrainConfig]:
    """Make a TrainConfig for the tiny model and records; `optim__lr=1` changes `optim.lr`."""

    def make(**changes: Any) -> TrainConfig:
        values: dict[str, Any] = {
            "model": {"checkpoint": str(checkpoint), "allow_untrained": True},
            "data": {
                "source": "json",
                "path": str(records_file),
                "prompt": "phi3",
                "split": [0.7, 0.1, 0.2],
            },
            "optim": {"lr": 1e-3},
            "eval": {"every": 2, "batches": 2, "sample": False},
            "device": "cpu",
            "precision": "32",
            "batch_size": 4,
        }
        for key, value in changes.items():
            group, _, name = key.rpartition("__")
            (values.setdefault(group, {}) if group else values)[name] = value
        return from_dict(TrainConfig, values)

    return make


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[TrainConfig, str], Path]:
    """Trains in a folder of that name below tmp_path, which is also the current folder."""
    monkeypatch.chdir(tmp_path)

    def fit(config: TrainConfig, name: str = "run") -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        train.fit(config, folder)
        return folder

    return fit


@pytest.fixture(autouse=True)
def no_processes_left() -> Iterator[None]:
    yield
    end_all()
