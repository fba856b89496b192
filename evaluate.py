"""Answer held-out instructions and measure the answers: `python evaluate.py --help`."""

from __future__ import annotations

import sys
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig

import sft.config.help  # noqa: F401, the resolver of --help
from sft.command import heavy_imports
from sft.config.loading import from_hydra
from sft.config.rules import check_given, given_keys
from sft.config.schema import EvaluateConfig
from sft.errors import InputError
from sft.launch import by_torchrun, job, on_devices, run
from sft.logs import log_to


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(composed: Any) -> None:
    """Check the config, then evaluate a model, or go on from evaluations that exist."""
    with job():
        config = from_hydra(EvaluateConfig, composed)
        given = given_keys(HydraConfig.get().overrides.task)
        check_given(config, given)
        if by_torchrun():
            raise InputError(
                "torchrun: evaluate.py starts its processes itself; call it with python and "
                "devices=N"
            )
        if config.compare is not None:
            compare_runs(config.compare, config.out)
        elif config.labels is not None:
            add_labels(str(config.run), config.labels)
        else:
            evaluate(config, given)


def evaluate(config: EvaluateConfig, given: list[str]) -> None:
    """Evaluate a model. The import takes seconds, so it waits until the config is checked.

    Args:
        given: the keys that were given on the command line.
    """
    with heavy_imports():
        from sft.evaluation import run as evaluation

    evaluation.evaluate(config, given, log_to, on_devices)


def compare_runs(runs: list[str], out: str | None) -> None:
    """Compare two evaluations; with `out`, keep the numbers in that folder."""
    from sft.evaluation import run as evaluation

    evaluation.compare_runs(runs, out)


def add_labels(run: str, file: str) -> None:
    """Compare the judge of a run's evaluation with a person's labels."""
    from sft.evaluation import labels

    labels.add_labels(run, file)


if __name__ == "__main__":
    if {"-m", "--multirun"} & set(sys.argv):
        sys.exit(
            "error: --multirun: evaluate.py takes one run or checkpoint; call it once for each"
        )
    run(main, "; run the same command again to continue")
