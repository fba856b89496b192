"""Trackers: where a run's numbers go besides its own folder.

TensorBoard and CSV are files of the run. Weights & Biases and MLflow may be behind a network: they
must answer when the run begins. If one fails later, the run says so and continues without it.
"""

import dataclasses
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)
from lightning.pytorch.utilities import rank_zero_only

from sft.checkpoint.hub import public
from sft.config.schema import TrainConfig
from sft.data.datamodule import InstructionData
from sft.errors import InputError
from sft.network import unreachable
from sft.training.callback import RunCallback
from sft.training.metrics_file import ANSWERED, MetricsFile, scalars
from sft.training.module import InstructionTuner
from sft.training.resume import Past

log = logging.getLogger(__name__)

# The name of all runs' project, or experiment, in a tracker that has them.
PROJECT = "sft"


def make_tracker(kind: str, folder: Path, past: Past) -> Logger | Literal[False]:
    """Make the tracker of a run; False for none.

    Weights & Biases and MLflow read their own environment variables (WANDB_MODE, WANDB_PROJECT,
    MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, and their keys). Without an address MLflow keeps
    its runs in `outputs/mlflow.db`.

    Args:
        past: of a resumed run. What was tracked of later steps is removed, since they are about to
            be repeated.

    Raises:
        InputError: the tracker is not installed, or does not answer.
    """
    if kind == "none":
        return False
    if kind == "tensorboard":
        return TensorBoardLogger(
            folder,
            name="",
            version="tensorboard",
            default_hp_metric=False,
            purge_step=past.steps + 1,
        )
    if kind == "csv":
        return CSVLogger(folder, name="", version="csv")
    return RemoteLogger(
        kind, _wandb if kind == "wandb" else _mlflow, folder, past.tracked.get(kind)
    )


def _wandb(folder: Path, run_id: str | None) -> WandbLogger:
    return WandbLogger(
        name=os.path.relpath(folder),
        save_dir=folder,
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        version=run_id,
    )


def _mlflow(folder: Path, run_id: str | None) -> MLFlowLogger:
    # Its default of 7 retries takes minutes before it says that the server is missing.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    address = os.environ.get("MLFLOW_TRACKING_URI")
    if not address:
        Path("outputs").mkdir(exist_ok=True)
        address = f"sqlite:///{Path('outputs/mlflow.db').absolute()}"
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    return MLFlowLogger(experiment, os.path.relpath(folder), address, run_id=run_id)


Remote = WandbLogger | MLFlowLogger


class RemoteLogger(Logger):
    """Passes everything to another logger until that fails; then warns once, and drops the rest.

    Raises:
        InputError: it fails before the run begins.
    """

    def __init__(
        self,
        kind: str,
        make: Callable[[Path, str | None], Remote],
        folder: Path,
        run_id: str | None,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.works = True
        # The library and its server are not ours, so they may raise anything.
        try:
            self.logger = make(folder, run_id)
            self._connect()
        except ModuleNotFoundError as error:
            raise InputError(
                f"logger: {kind} is not installed; pip install -e '.[{kind}]'"
            ) from error
        except Exception as error:
            raise InputError(
                f"logger: {kind} cannot be used ({_line(error, kind)}); fix that, or choose "
                "another logger="
            ) from error

    def _connect(self) -> Any:
        """Ask for the run at the tracker, which connects on rank 0."""
        return self.logger.experiment

    @property
    def name(self) -> str | None:
        return self.logger.name

    @property
    def version(self) -> int | str | None:
        return self.logger.version

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._pass_on(self.logger.log_metrics, metrics, step)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self._pass_on(self.logger.log_hyperparams, params)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._pass_on(self.logger.finalize, status)

        # Unless it is finished, the next job of a sweep would write into the same W&B run.
        if isinstance(self.logger, WandbLogger):
            self._pass_on(self.logger.experiment.finish, 0 if status == "success" else 1)

    @rank_zero_only
    def log_table(
        self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int
    ) -> None:
        """Give the tracker a table of texts."""
        if isinstance(self.logger, WandbLogger):
            self._pass_on(self.logger.log_text, table, list(columns), list(rows), None, step)
        else:
            cells = zip(*rows, strict=True)
            by_column = {name: list(found) for name, found in zip(columns, cells, strict=True)}
            self._pass_on(self._log_mlflow_table, f"{table}/step-{step}.json", by_column)

    def _log_mlflow_table(self, file: str, by_column: dict[str, list[Any]]) -> None:
        assert isinstance(self.logger, MLFlowLogger)
        self.logger.experiment.log_table(self.logger.run_id, by_column, file)

    def _pass_on(self, call: Callable[..., Any], *arguments: Any) -> None:
        if not self.works:
            return
        # Hours of training are worth more than the copy of their numbers, whatever is raised.
        try:
            call(*arguments)
        except Exception as error:
            self.works = False
            log.warning(
                f"{self.kind} failed ({_line(error, self.kind)}); it gets no more numbers; "
                "metrics.csv has all of them"
            )


def _line(error: Exception, kind: str) -> str:
    """Say in one line what went wrong, without the name and password that an address may hold."""
    if kind == "wandb":
        address = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    else:
        address = os.environ.get("MLFLOW_TRACKING_URI", "")
    if reason := unreachable(error, address):
        return reason
    return public(" ".join(str(error).split()))[:300] or type(error).__name__


class Tracking(RunCallback):
    """Gives the tracker the run's settings, and at the end its final numbers.

    TensorBoard's HPARAMS tab wants both of them together.
    """

    def __init__(
        self, config: TrainConfig, metrics: MetricsFile, best: Callable[[], float]
    ) -> None:
        self.settings = dataclasses.asdict(config)
        self.metrics = metrics
        self.best = best

    def at_train_start(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData
    ) -> None:
        for tracker in trainer.loggers:
            is_csv = isinstance(tracker, CSVLogger)
            # Lightning's CSV file begins empty in a resumed run too.
            if is_csv and trainer.global_step:
                for row in self.metrics.rows:
                    tracker.log_metrics(scalars(row), int(row["step"]))
            # Remote trackers have the settings of a resumed run. TensorBoard gets them at the end.
            is_new = not trainer.global_step and not isinstance(tracker, TensorBoardLogger)
            if is_csv or is_new:
                tracker.log_hyperparams(self.settings)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # A resumed run continues under these names.
        remote = [tracker for tracker in trainer.loggers if isinstance(tracker, RemoteLogger)]
        checkpoint["tracked"] = {tracker.kind: str(tracker.version) for tracker in remote}

    def at_train_end(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData
    ) -> None:
        numbers = self._final()
        for tracker in trainer.loggers:
            if isinstance(tracker, TensorBoardLogger):
                tracker.log_hyperparams(self.settings, numbers)
            else:
                tracker.log_metrics(numbers, trainer.global_step)

    def _final(self) -> dict[str, float]:
        """Return the last value of each loss and metric, and the lowest validation loss."""
        found: dict[str, float] = {}
        for row in self.metrics.rows:
            for key, value in row.items():
                if key.endswith("loss") or key in ANSWERED:
                    found[key] = value
        if self.best() < float("inf"):
            found["best_validation"] = self.best()
        return {f"final/{key.replace('/', '_')}": value for key, value in found.items()}
