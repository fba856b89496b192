"""A run on a device that is not the CPU: no tensor is left behind, and the CPU seldom waits."""

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.optim import adam

from sft.config.schema import TrainConfig
from sft.training import memory, trainer
from sft.training.metrics import Metrics
from sft.training.module import InstructionTuner
from tests.fixtures.other_device import DEVICE, other_device

Config = Callable[..., TrainConfig]
Run = Callable[..., Path]


@pytest.fixture
def trains_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Lightning, and what reads the device's name, take the other device for a GPU."""
    strategy = SingleDeviceStrategy(device=DEVICE)
    monkeypatch.setattr(trainer, "_strategy", lambda *_: strategy)
    monkeypatch.setattr(CPUAccelerator, "setup_device", lambda *_: None)
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda *_, **__: None)
    monkeypatch.setitem(memory.MARGIN, DEVICE.type, 1.0)
    monkeypatch.setattr(Metrics, "_measured_rate", lambda *_: 1e12)


def losses(folder: Path) -> dict[str, list[float]]:
    """The numbers of each step that do not depend on the clock."""
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    names = ["train/loss", "grad_norm", "train/eval_loss", "val/loss", "val/full_loss"]
    return {name: [float(row[name]) for row in rows if row[name]] for name in names}


@pytest.mark.parametrize(
    "changes",
    [
        {"accumulate": 2, "data__prompt_weight": 0.5, "optim__ema": 0.5, "eval__answers": 2},
        {
            "lora": {"kind": "default"},
            "activation_checkpointing": True,
            "optim__grad_clip": 0.5,
        },
    ],
    ids=["whole", "adapter"],
)
def test_a_run_elsewhere_has_the_numbers_of_one_on_the_cpu(
    config: Config,
    run: Run,
    request: pytest.FixtureRequest,
    changes: dict[str, Any],
) -> None:
    here = losses(run(config(max_steps=2, **changes)))
    request.getfixturevalue("trains_elsewhere")
    with other_device():
        there = losses(run(config(max_steps=2, **changes)))
    assert len(here["train/loss"]) == 2
    for name, values in here.items():
        assert there[name] == pytest.approx(values, abs=1e-4), name


def test_the_cpu_waits_for_the_device_at_the_start_and_the_end_of_a_step(
    config: Config, run: Run, trains_elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[Counter[str]] = []
    starts = InstructionTuner.on_train_batch_start

    def counted(*arguments: Any) -> None:
        counts.append(Counter(waits))
        starts(*arguments)

    monkeypatch.setattr(InstructionTuner, "on_train_batch_start", counted)
    with other_device() as waits:
        run(config(max_steps=4, eval__every=0, data__mask_prompt=False))

    # Every wait leaves a GPU without work. These are needed: how many tokens are real, how many
    # have a label, and which labels are an answer's, before the layers; then, before the update,
    # the sums of the losses and the norm of the gradient, which must be finite.
    assert counts[3] - counts[2] == {
        "aten.nonzero.default": 2,
        "aten.index.Tensor": 1,
        "aten._to_copy.default": 1,
        "aten._local_scalar_dense.default": 1,
    }
