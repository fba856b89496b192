"""What the entry points share: errors in one line, processes for several devices, the table at a sweep's end."""

import csv
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra.errors
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from sft.config import InputError

FULL_ERROR = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")


def run(main: Callable[[], Any]) -> None:
    """Call a Hydra main function; a config that cannot be composed becomes one line on stderr and exit code 1.

    With HYDRA_FULL_ERROR=1 it stays an exception with its traceback, as any other error does.
    """
    if FULL_ERROR:
        main()
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises what it would print over several lines
    try:
        main()
    except hydra.errors.HydraException as error:
        sys.exit(f"error: {_one_line(error)}")


def _one_line(error: BaseException) -> str:
    message = " ".join(str(error).split()).partition(" Config search path")[0]
    if message.startswith("Could not override '"):  # Hydra would go on to advise a + that would be refused here
        key = message.split("'")[1]
        return f"{key}: unknown key; --help lists those there are"
    return message


@contextmanager
def job() -> Iterator[None]:
    """Around all that a Hydra main function does: an InputError becomes one line on stderr and exit code 1.

    In a sweep the job ends there and the others run; the sweep's table then lists it as failed.
    """
    try:
        yield
    except InputError as error:
        if FULL_ERROR:
            raise
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            sys.exit(f"error: {error}")
        print(f"error: job {HydraConfig.get().job.num}: {error}", file=sys.stderr)


class _TqdmHandler(logging.Handler):
    """Prints above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record))


def log_to(path: Path) -> None:
    """Log to the terminal and to a file, which is made at the first message; rank 0 speaks for all ranks."""
    log = logging.getLogger("sft")
    log.handlers.clear()
    log.setLevel(logging.INFO)
    log.propagate = False
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    if os.environ.get("RANK", "0") != "0":
        log.addHandler(logging.NullHandler())
        return
    file = logging.FileHandler(path, delay=True, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(file)
    log.addHandler(_TqdmHandler())


def on_devices(devices: int, function: Callable[..., None], *arguments: Any) -> None:
    """Call `function` in one process for each device; in this one if there is but one, or if a launcher (torchrun)
    has started the processes already.

    Raises:
        InputError: what the first failing process raised.
    """
    if devices == 1 or "LOCAL_RANK" in os.environ:
        function(*arguments)
        return
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(1, 1, devices, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0)
    try:
        elastic_launch(config, function)(*arguments)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        name, _, message = failure.message.strip().rpartition("\n")[2].partition(": ")
        if name.endswith("InputError"):
            raise InputError(message) from None
        raise


def run_folder(resume: str | None, fresh: str) -> str:
    """The folder of a run: the one to resume, if it holds a checkpoint, or a fresh one."""
    return resume if resume and (Path(resume) / "checkpoints").is_dir() else fresh


def hydra_folder(resume: str | None) -> str | None:
    """Where Hydra keeps the composed config in the run folder; nowhere in a resumed one, which has its own."""
    return None if resume and (Path(resume) / "checkpoints").is_dir() else ".hydra"


OmegaConf.register_new_resolver("run_dir", run_folder)
OmegaConf.register_new_resolver("hydra_folder", hydra_folder)


class SweepTable(Callback):
    """At the end of a multirun: `results.csv` beside `multirun.yaml`, the same as a table, and exit code 1 if a job
    failed."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        folders = [path for path in folder.iterdir() if path.is_dir()]
        jobs = sorted(folders, key=lambda path: int(path.name.split("-")[0]))
        rows = sorted(map(sweep_row, jobs), key=lambda row: (row["validation_loss"] is None, row["validation_loss"]))
        with (folder / "results.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        print(f"\n{'validation loss':>15}  {'train loss':>10}  {'seconds':>7}  job")
        for row in rows:
            numbers = [f"{row[key]:.4f}" if row[key] is not None else row["status"] for key in list(row)[2:4]]
            seconds = f"{row['seconds']:.0f}" if row["seconds"] is not None else ""
            print(f"{numbers[0]:>15}  {numbers[1]:>10}  {seconds:>7}  {row['job']}")
        print(f"{folder / 'results.csv'}")
        if failed := [row for row in rows if row["status"] != "finished"]:
            sys.exit(f"error: {len(failed)} of {len(rows)} jobs failed; their messages are above")


def sweep_row(job: Path) -> dict[str, Any]:
    """A job of a sweep in a few numbers; `failed` if it left no summary."""
    path = job / "summary.json"
    summary = json.loads(path.read_text()) if path.exists() else {}
    losses = summary.get("losses", {})
    return {
        "job": job.name,
        "status": "finished" if summary else "failed",
        "validation_loss": summary.get("best_validation_loss"),
        "train_loss": losses.get("train/loss", {}).get("last"),
        "seconds": summary.get("seconds"),
        "folder": str(job),
    }
