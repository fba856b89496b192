"""A run on preferences: from records to a model, in any division, resumed exactly."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sft.atomic import read_numbers
from sft.config.schema import TrainConfig
from sft.errors import InputError
from sft.training.resume import resumed_config
from tests.training.conftest import WORDS
from tests.training.test_resume import equal, losses, stop_after

Config = Callable[..., TrainConfig]
Run = Callable[..., Path]


@pytest.fixture
def preferences(config: Config, tmp_path: Path) -> Config:
    """Make a config for 30 pairs, whose chosen answer repeats the question's word."""
    records = []
    for i in range(30):
        word = WORDS[i % 17]
        chosen = " ".join([word] * (1 + i % 3))
        record = {"instruction": f"{word}?", "chosen": chosen, "rejected": WORDS[(i + 5) % 17]}
        records.append(record)
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(records))

    def make(**changes: Any) -> TrainConfig:
        settings: dict[str, Any] = {"data__path": str(path), "objective": "dpo", "logger": "none"}
        return config(**settings | changes)

    return make


def rows(folder: Path) -> list[dict[str, float]]:
    return read_numbers(folder / "metrics.csv")


def test_a_run_learns_to_prefer(preferences: Config, run: Run) -> None:
    found = rows(run(preferences(epochs=4, optim__lr=3e-2, eval__every=0)))
    assert found[0]["train/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert found[0]["train/margin"] == pytest.approx(0, abs=1e-6)
    last = found[-6:]
    assert sum(row["train/loss"] for row in last) / 6 < 0.6
    assert sum(row["train/accuracy"] for row in last) / 6 > 0.75
    assert sum(row["train/margin"] for row in last) / 6 > 0.2
    assert found[-1].keys() >= {"val/full_loss", "val/full_margin", "val/full_accuracy"}


def test_an_adapter_begins_at_the_reference_too(preferences: Config, run: Run) -> None:
    settings = preferences(max_steps=2, eval__every=0, lora__kind="default", precision="bf16-mixed")
    first, second = rows(run(settings))
    assert first["train/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert second["train/margin"] != 0


def test_accumulation_changes_no_loss(preferences: Config, run: Run) -> None:
    common = {"max_steps": 3, "eval__every": 0, "optim__lr": 1e-2}
    whole = rows(run(preferences(batch_size=8, **common), "whole"))
    parts = rows(run(preferences(batch_size=2, accumulate=4, **common), "parts"))
    for key in ("train/loss", "train/margin", "train/accuracy", "tokens_seen"):
        expected = [row[key] for row in whole]
        assert [row[key] for row in parts] == pytest.approx(expected, abs=1e-4), key
    assert whole[0]["train/loss"] != whole[2]["train/loss"]


def test_a_resumed_run_equals_an_uninterrupted_one(preferences: Config, run: Run) -> None:
    settings = preferences(checkpoint__every=3, model__dropout=0.1, eval__every=0, dpo__loss="ipo")
    folder = run(settings, "whole")
    stop_after(3, lambda: run(settings, "parts"))
    parts = folder.parent / "parts"
    run(resumed_config(dataclasses.replace(settings, resume=str(parts)), []), "parts")
    ends = [torch.load(one / "checkpoints/last.ckpt", weights_only=True) for one in (folder, parts)]
    assert ends[0]["global_step"] == 12
    for key in ("state_dict", "optimizer_states"):
        assert equal(ends[0][key], ends[1][key]), key
    assert losses(parts) == losses(folder)


def test_records_without_preferences_are_refused(config: Config, run: Run) -> None:
    with pytest.raises(InputError, match=r"records\.json: record 1: no 'rejected'"):
        run(config(objective="dpo"))
