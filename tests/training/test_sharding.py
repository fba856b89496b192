"""strategy=fsdp on two processes: a sharded run leaves what a run of one process leaves."""

import dataclasses
import re
import shutil
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from sft.atomic import read_numbers
from sft.checkpoint.folder import load_pretrained
from sft.config.schema import TrainConfig
from tests.training.processes import begin, finish
from tests.training.test_resume import equal, losses

Config = Callable[..., TrainConfig]
Run = Callable[..., Path]


def end(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return found


def answer_before(folder: Path) -> str:
    [found] = re.findall(
        r"before training: .*\n    answer: (.*)\n", (folder / "train.log").read_text()
    )
    return str(found)


def test_a_sharded_run_equals_a_run_of_one_process(
    config: Config, run: Run, tmp_path: Path
) -> None:
    common = {
        "epochs": 1,
        "eval__sample": True,
        "eval__batches": 99,
        "eval__every": 6,
        "optim__grad_clip": 0.5,
    }
    common |= {
        "data__split": [0.69, 0.11, 0.2],
        "activation_checkpointing": True,
    }  # the last step has one record
    sharded = config(**common, batch_size=2, accumulate=2, strategy="fsdp", checkpoint__every=3)
    whole, parts, killed = (tmp_path / name for name in ("whole", "parts", "killed"))
    one = run(config(**common, batch_size=8), "one")
    finish(sharded, whole, 2)

    assert answer_before(whole) == answer_before(one)
    rows = [read_numbers(folder / "metrics.csv") for folder in (one, whole)]
    assert len(rows[0]) == 7
    for mine, other in zip(*rows, strict=True):
        for key in ("train/loss", "train/eval_loss", "val/loss", "val/full_loss"):
            assert mine.get(key) == pytest.approx(other.get(key), abs=2e-6), key
    for key in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(end(whole)[key], end(one)[key], atol=1e-5, rtol=0)
    written = load_pretrained(whole / "model").model.state_dict()
    assert equal(
        {f"model.{name}": tensor for name, tensor in written.items()},
        dict(end(whole)["state_dict"]),
    )

    shutil.copytree(whole, parts)
    (parts / "checkpoints" / "last.ckpt").unlink()  # the one of step 3 is before it
    shutil.copytree(whole, killed)  # between its last step and its end
    shutil.rmtree(killed / "model")
    (killed / "summary.json").unlink()
    resumed = [
        begin(dataclasses.replace(sharded, resume=str(run)), run, 2) for run in (parts, killed)
    ]
    for process in chain(*resumed):
        process.join(300)
        assert process.exitcode == 0
    assert "resumed at step 4" in (parts / "train.log").read_text()
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert equal(end(parts)[key], end(whole)[key]), key
    assert losses(parts) == losses(whole)
    assert (killed / "summary.json").exists()
    assert equal(load_pretrained(killed / "model").model.state_dict(), written)


def test_fsdp_on_one_device_is_refused(command: Callable[..., None]) -> None:
    with pytest.raises(SystemExit) as end:
        command("strategy=fsdp")
    assert (
        end.value.code
        == "error: strategy: fsdp divides a model among devices, but there is one; add devices=N"
    )
