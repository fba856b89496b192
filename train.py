"""Fine-tune a GPT-2 to follow instructions: `python train.py --help`.

The run itself is `fit` in sft/training/run.py. Imports that take seconds wait until the config is
checked.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig

import sft.config.help  # noqa: F401, the resolver of --help
from sft.claims import claimed_by_rank_0
from sft.command import heavy_imports
from sft.config.loading import from_hydra
from sft.config.origins import changed_settings
from sft.config.rules import check_given, check_processes
from sft.config.schema import TrainConfig, evaluation_of
from sft.folders import in_sweep, is_rank_0, resumed_or_new
from sft.launch import by_torchrun, job, on_devices, run, world_size
from sft.logs import log_to
from sft.summaries import best_validation_loss
from sft.sweep import check_finished_run, note_job


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(composed: Any) -> float | None:
    """Train, and evaluate if `evaluate=true`.

    Returns:
        The best validation loss, for a sweeper that searches; None if the job failed, or has none.
    """
    with job():
        config = from_hydra(TrainConfig, composed)
        hydra_config = HydraConfig.get()
        given = list(hydra_config.overrides.task)
        folder = Path(hydra_config.runtime.output_dir)

        # A resumed run keeps its folder, and the config that it began with.
        config = resumed_or_new(config, given, folder)
        check_given(config, given, in_sweep())
        check_processes(config, world_size(config.devices))

        # A judge that does not answer is found before hours of training.
        if config.evaluate:
            from sft.judge.ask import connect

            connect(config.judge)

        on_devices(config.devices, fit, config, folder, changed_settings(config, hydra_config))
        if in_sweep():
            check_finished_run(config, folder)
            note_job("trained")

        # Evaluate. Of the processes of torchrun, only this one is left.
        if config.evaluate and is_rank_0():
            from evaluate import evaluate

            evaluate(evaluation_of(config, folder, 1 if by_torchrun() else config.devices), [])
        return best_validation_loss(folder)
    return None


def fit(config: TrainConfig, folder: Path, changed: str = "") -> None:
    """Train, as one process of the run. The log begins with the settings that are `changed`."""
    with heavy_imports():
        from sft.training import run as training

    # Where a launcher started this process, the launcher has claimed the folder already.
    with claimed_by_rank_0(folder) if is_rank_0() else nullcontext():
        log_to(folder / "train.log")
        training.fit(config, folder, world_size(config.devices), changed)


if __name__ == "__main__":
    run(main)
