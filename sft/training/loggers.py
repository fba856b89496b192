"""Trackers: where a run's numbers go besides its own folder.

TensorBoard and CSV are files of the run. Weights & Biases and MLflow may lie beyond a network: they must be there when
the run begins; if they fail later, the run says so and goes on without them.
"""

import dataclasses
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from sft.config import InputError, TrainConfig
from sft.gpt2.hub import public
from sft.network import unreachable
from sft.training.metrics import MetricsFile, scalars
from sft.training.resume import Past

log = logging.getLogger(__name__)
PROJECT = "sft"  # of all runs, in a tracker that sorts by project or experiment


def make_logger(kind: str, folder: Path, past: Past) -> Logger | Literal[False]:
    """The tracker of a run; False for none.

    Weights & Biases and MLflow read their own environment variables (WANDB_MODE, WANDB_PROJECT, MLFLOW_TRACKING_URI,
    MLFLOW_EXPERIMENT_NAME, and their keys); without an address MLflow keeps its runs in `outputs/mlflow.db`.

    Args:
        past: of a resumed run; what was tracked of later steps, which are now done anew, is cut.

    Raises:
        InputError: the tracker is not installed, or does not answer.
    """
    if kind == "none":
        return False
    if kind == "tensorboard":
        return TensorBoardLogger(
            folder, name="", version="tensorboard", default_hp_metric=False, purge_step=past.steps + 1
        )
    if kind == "csv":
        return CSVLogger(folder, name="", version="csv")
    return RemoteLogger(kind, _wandb if kind == "wandb" else _mlflow, folder, past.tracked.get(kind))


def _wandb(folder: Path, run_id: str | None) -> WandbLogger:
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    return WandbLogger(name=os.path.relpath(folder), save_dir=folder, project=project, version=run_id)


def _mlflow(folder: Path, run_id: str | None) -> MLFlowLogger:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its own 7 take minutes before they tell
    address = os.environ.get("MLFLOW_TRACKING_URI")
    if not address:
        Path("outputs").mkdir(exist_ok=True)
        address = f"sqlite:///{Path('outputs/mlflow.db').absolute()}"
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    return MLFlowLogger(name, os.path.relpath(folder), address, run_id=run_id)


Remote = WandbLogger | MLFlowLogger


class RemoteLogger(Logger):
    """Hands everything to another logger, until that fails: then it warns once and lets the run go on untracked.

    Raises:
        InputError: it fails before the run begins.
    """

    def __init__(self, kind: str, make: Callable[[Path, str | None], Remote], folder: Path, run_id: str | None) -> None:
        super().__init__()
        self.kind, self.works = kind, True
        try:
            self.logger = make(folder, run_id)
            _ = self.logger.experiment  # connects, on rank 0
        except ModuleNotFoundError as error:
            raise InputError(f"logger: {kind} is not installed; pip install -e '.[{kind}]'") from error
        except Exception as error:  # of a library and a server that are not ours
            raise InputError(
                f"logger: {kind} cannot be used ({_line(error, kind)}); see to it, or choose another logger="
            ) from error

    @property
    def name(self) -> str | None:
        return self.logger.name

    @property
    def version(self) -> int | str | None:
        return self.logger.version

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._hand_on(self.logger.log_metrics, metrics, step)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self._hand_on(self.logger.log_hyperparams, params)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._hand_on(self.logger.finalize, status)
        if isinstance(self.logger, WandbLogger):  # or the next job of a sweep would go on with this run
            self._hand_on(self.logger.experiment.finish, 0 if status == "success" else 1)

    def _hand_on(self, call: Callable[..., Any], *arguments: Any) -> None:
        if not self.works:
            return
        try:
            call(*arguments)
        except Exception as error:  # as above: hours of training are worth more than their copy elsewhere
            self.works = False
            line = _line(error, self.kind)
            log.warning(f"{self.kind} failed ({line}); not tracked any more, the numbers are in metrics.csv")


def _line(error: Exception, kind: str) -> str:
    """What went wrong, in one line, without the name and password that an address may hold."""
    wandb = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    address = wandb if kind == "wandb" else os.environ.get("MLFLOW_TRACKING_URI", "")
    if reason := unreachable(error, address):
        return reason
    return public(" ".join(str(error).split()))[:300] or type(error).__name__


class Tracking(Callback):
    """Gives the tracker the run's settings, and at the end what came of them; in TensorBoard's HPARAMS tab, both."""

    def __init__(self, config: TrainConfig, metrics: MetricsFile, best: Callable[[], float]) -> None:
        self.settings, self.metrics, self.best = dataclasses.asdict(config), metrics, best

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger) and trainer.global_step:  # Lightning's begins its file anew
                for row in self.metrics.rows:
                    logger.log_metrics(scalars(row), int(row["step"]))
            if isinstance(logger, CSVLogger) or not (trainer.global_step or isinstance(logger, TensorBoardLogger)):
                logger.log_hyperparams(self.settings)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        ids = {logger.kind: str(logger.version) for logger in trainer.loggers if isinstance(logger, RemoteLogger)}
        checkpoint["tracked"] = ids

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        numbers = self._final()
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(self.settings, numbers)
            else:
                logger.log_metrics(numbers, trainer.global_step)

    def _final(self) -> dict[str, float]:
        """The last value of each loss, and the lowest over the whole validation split."""
        last = {key: value for row in self.metrics.rows for key, value in row.items() if key.endswith("loss")}
        best = {"best_validation": self.best()} if self.best() < float("inf") else {}
        return {f"final/{key.replace('/', '_')}": value for key, value in (last | best).items()}
