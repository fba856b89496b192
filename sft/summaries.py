"""The summary of a finished run, `summary.json`.

Training writes it. Evaluation, the report, the model's card and the table of a sweep read it.
"""

import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sft.atomic import read_json, write_json
from sft.dataclass_json import from_json, to_json
from sft.errors import InputError

RUN_SUMMARY = "summary.json"

# The packages whose version can change a run's numbers.
PACKAGES = (
    "sft",
    "torch",
    "lightning",
    "hydra-core",
    "tiktoken",
    "safetensors",
    "huggingface_hub",
    "torchmetrics",
)


# Weights and records of `gpt2-nano` that this version no longer has, by their SHA-256, and the last
# version that had them.
FORMER_NANO = {
    "3e5e2ec735e0547300dd6f095c4eeb35e7dd9c85a902f9fdaf4895b1c536b795": "0.1.0",
    "a311981622926d8a65b1f836b22b12f5267652ccb70bf3c1c4d83602ba4ecf10": "0.1.0",
}


def refuse_former_nano(sha256: str, run: Path | str) -> None:
    """Refuse a run that began with an earlier `gpt2-nano`, whose files are not here any more.

    Args:
        sha256: the hash of the weights, or of the records, that the run began with.

    Raises:
        InputError: it is a former one's; the message names the version to use.
    """
    if former := FORMER_NANO.get(sha256):
        raise InputError(
            f"{run}: a run of the gpt2-nano of sft {former}, which was remade since; "
            f"use sft {former} for this run, or train again"
        )


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages in use."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


@dataclass(frozen=True)
class LossChange:
    """The first and the last value of a loss, in nats per supervised token; None: not finite."""

    first: float | None
    last: float | None


@dataclass(frozen=True)
class DataUsed:
    """The data, and for each split the numbers of its overview.

    `revision` is the commit of a data set of the hub.
    """

    path: str
    sha256: str
    splits: dict[str, dict[str, int]]
    revision: str | None = None


@dataclass(frozen=True)
class CheckpointUsed:
    """The weights at the start of a run; `revision` is None for a folder."""

    source: str
    revision: str | None
    sha256: str


@dataclass(frozen=True)
class RunSummary:
    """The numbers and the origin of a finished run.

    `losses` is keyed by the columns of metrics.csv. `seconds` and `tokens_per_sec` count optimizer
    steps alone. `answer_loss_before` is the loss of the sanity check. `best_validation_loss` is the
    lowest one, that of the weights in `model/` unless `eval.best` chose them by another number.
    Each is None if it was not taken. `config` is the TrainConfig as plain values. `template` is the
    prompt's, in Jinja; earlier versions did not note it.
    """

    status: str
    steps: int
    epochs: float
    tokens_seen: int
    seconds: float
    tokens_per_sec: float
    losses: dict[str, LossChange]
    peak_memory_bytes: int
    answer_loss_before: float | None
    best_validation_loss: float | None
    device: str
    precision: str
    data: DataUsed
    checkpoint: CheckpointUsed
    seed: int
    versions: dict[str, str]
    config: dict[str, Any]
    template: str | None = None


def write_run_summary(folder: Path, summary: RunSummary) -> None:
    """Write `summary.json` of the run in `folder`.

    Raises:
        InputError: it cannot be written, as on a full disk.
    """
    write_json(folder / RUN_SUMMARY, to_json(summary))


def read_run_summary(folder: Path) -> RunSummary:
    """Read `summary.json` of the run in `folder`.

    Raises:
        InputError: the file is missing, or is not the summary of a run; by file and key.
    """
    path = folder / RUN_SUMMARY
    content = read_json(path)
    try:
        return from_json(RunSummary, content)
    except ValueError as error:
        raise InputError(f"{path}: not the summary of a run of train.py ({error})") from error


def best_validation_loss(folder: Path) -> float | None:
    """Return the best validation loss of the run in `folder`.

    It is None if the run took none, or if rank 0 has not written the summary yet.
    """
    if not (folder / RUN_SUMMARY).exists():
        return None
    return read_run_summary(folder).best_validation_loss
