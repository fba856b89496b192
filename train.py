"""Fine-tune a GPT-2 to follow instructions: `python train.py --help`."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig

import sft.config.help  # noqa: F401, the resolver of --help
from sft.claims import claimed_by_rank_0
from sft.cli import job, log_to, on_devices, run, world_size
from sft.config.loading import from_hydra
from sft.config.origins import changed_settings
from sft.config.rules import check_given, check_processes
from sft.config.schema import EvaluateConfig, GenerateConfig, TrainConfig
from sft.errors import InputError
from sft.folders import claim_job, in_sweep, is_rank_0, which_run
from sft.summaries import RUN_SUMMARY, read_run_summary
from sft.sweep import note_job


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(composed: Any) -> float | None:
    """Check the config, find the run's folder, train.

    Returns:
        The best validation loss, for a sweeper that searches; None if the job failed, or has none.
    """
    with job():
        config, folder = (
            from_hydra(TrainConfig, composed),
            Path(HydraConfig.get().runtime.output_dir),
        )
        claim_job(folder)
        config.resume = which_run(config.resume, folder)
        if config.resume is not None:
            from sft.training.resume import all_keys, resumed_config

            # The jobs of a sweep are compared with each other, so each must have all the settings of its row.
            given = all_keys(config) if in_sweep() else list(HydraConfig.get().overrides.task)
            config = resumed_config(config, given)
        check_given(config, HydraConfig.get().overrides.task, in_sweep())
        check_processes(config, world_size(config.devices))
        if config.evaluate:
            from sft.judge.ask import connect

            connect(config.judge)  # a judge that is not there is told before hours of training
        on_devices(config.devices, fit, config, folder, changed_settings(config, HydraConfig.get()))
        if in_sweep():
            check_length(config, folder)
            note_job("trained")
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


def check_length(config: TrainConfig, folder: Path) -> None:
    """Raise InputError if a job of a sweep met a finished run with other limits than its own."""
    if not (folder / RUN_SUMMARY).exists():
        return
    past = read_run_summary(folder).config
    for key in ("epochs", "max_steps"):
        wanted = getattr(config, key)
        if past.get(key, wanted) != wanted:
            raise InputError(
                f"{key}: {wanted}, but the run in {folder} ended with {key}={past[key]} and has "
                "nothing left to do; give the same value, a larger one, or a new hydra.sweep.dir="
            )


def fit(config: TrainConfig, folder: Path, changed: str = "") -> None:
    """Train, as one process of the run; rank 0 claims the folder if its launcher has not.

    The import takes seconds. So it waits until the config is checked, and a process that only
    launches others goes without.

    Args:
        changed: the settings that are not the defaults, for the log.
    """
    from sft.training import run as training

    with claimed_by_rank_0(folder) if is_rank_0() else nullcontext():
        log_to(folder / "train.log")
        training.fit(config, folder, world_size(config.devices), changed)


def evaluate_run(config: TrainConfig, folder: Path) -> None:
    """Evaluate the run, as evaluate.py does."""
    from sft.evaluation.run import evaluate

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
    evaluate(settings, [], log_to, on_devices)


if __name__ == "__main__":
    run(main)
