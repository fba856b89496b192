"""Fine-tune a GPT-2 to follow instructions: `python train.py --help`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig

from sft.cli import job, log_to, on_devices, run, world_size
from sft.config import EvaluateConfig, GenerateConfig, InputError, TrainConfig
from sft.folders import which_run
from sft.merge import from_hydra
from sft.summaries import RUN_SUMMARY, read_run_summary


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(composed: Any) -> float | None:
    """Check the config, find the run's folder, train.

    Returns:
        The best validation loss, for a sweeper that searches; None if the job failed, or has none.
    """
    with job():
        config, folder = from_hydra(TrainConfig, composed), Path(HydraConfig.get().runtime.output_dir)
        config.resume = which_run(config.resume, folder)
        if config.resume is not None:
            from sft.training.resume import resumed_config

            config = resumed_config(config, list(HydraConfig.get().overrides.task))
        check_given(config, list(HydraConfig.get().overrides.task))
        if config.evaluate:
            from sft.evaluation.judging import connect

            connect(config.judge)  # a judge that is not there is told before hours of training
        on_devices(config.devices, fit, config, folder)
        if config.evaluate and os.environ.get("RANK", "0") == "0":
            evaluate_run(config, folder)
        return best_loss(folder)
    return None


def best_loss(folder: Path) -> float | None:
    """Return the best validation loss of a finished run.

    None: the run took none, or this rank is ahead of the one that writes the summary.
    """
    if not (folder / RUN_SUMMARY).exists():
        return None
    return read_run_summary(folder).best_validation_loss


def check_given(config: TrainConfig, overrides: list[str]) -> None:
    """Raises InputError for a key that was given but would not be used."""
    for key in (override.lstrip("+~").split("=")[0] for override in overrides):
        if config.lora.kind == "none" and key.startswith("lora."):
            raise InputError(f"{key}: would not be read without an adapter; add lora=default")
    if config.strategy == "fsdp" and world_size(config.devices) == 1:
        raise InputError("strategy: fsdp divides a model among devices, but there is one; add devices=N")


def fit(config: TrainConfig, folder: Path) -> None:
    """Train, as one process of the run.

    The import takes seconds. So it waits until the config is checked, and a process that only
    launches others goes without.
    """
    from sft.training import run as training

    log_to(folder / "train.log")
    training.fit(config, folder, world_size(config.devices))


def evaluate_run(config: TrainConfig, folder: Path) -> None:
    """Evaluate the run, as evaluate.py does."""
    from evaluate import evaluate

    # Of torchrun's processes, only this one is left.
    alone = "LOCAL_RANK" in os.environ
    settings = EvaluateConfig(
        config.data,
        GenerateConfig(),
        run=str(folder),
        split=config.eval.split,
        seed=config.seed,
        device=config.device,
        devices=1 if alone else config.devices,
        precision=config.precision,
        judge=config.judge,
    )
    evaluate(settings, [])


if __name__ == "__main__":
    run(main)
