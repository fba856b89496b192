"""Waiting times: for the first optimizer step, for a loaded model, for a written checkpoint."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import numpy as np
import torch

from sft.checkpoint import weights
from sft.checkpoint.folder import load_pretrained, save_pretrained
from sft.checkpoint.hub import WEIGHTS
from sft.config.schema import OptimConfig
from sft.gpt2.model import GPT
from sft.gpt2.tokenizer import load_tokenizer
from sft.training.checkpoints import CheckpointFiles
from sft.training.optim import adamw
from tests.benchmarks.data import in_own_process, peak
from tests.benchmarks.speed import SIZES

ROOT = Path(__file__).parents[2]
# macOS has no such call. There, a file that was just written is still in memory.
CAN_FORGET = hasattr(os, "posix_fadvise")


def first_step() -> float:
    """Return the seconds from `python train.py` to its first step in metrics.csv.

    The median of three.
    """
    tries = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as place:
            rows = Path(place) / "run" / "metrics.csv"
            began = time.perf_counter()
            # The last step's row waits for a validation, so the first must not be the last.
            settings = [f"hydra.run.dir={rows.parent}", "max_steps=2"]
            command = [sys.executable, str(ROOT / "train.py"), *settings]
            with subprocess.Popen(
                command, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ) as process:
                while not rows.exists() or "\n1," not in rows.read_text():
                    assert process.poll() is None, "train.py ended without a step"
                    time.sleep(0.01)
                tries.append(time.perf_counter() - began)
    return median(tries)


def load(size: str, vocabulary: Path) -> SimpleNamespace:
    """Load a model in a process of its own.

    Returns:
        `seconds`; `beside`, its ratio to the seconds of reading the file; `size`, the file's bytes;
        `peak`, the bytes by which the process grew.
    """
    with _on_disk() as place:
        folder = place / "model"
        model = weights.skeleton(SIZES[size]).to_empty(device="cpu")
        for parameter in model.parameters():
            torch.nn.init.constant_(parameter, 0.5)
        save_pretrained(model, folder, load_tokenizer(vocabulary))
        del model
        return in_own_process(partial(_load, folder))


def _load(folder: Path) -> SimpleNamespace:
    path = folder / WEIGHTS
    before = peak()
    load_pretrained(folder)
    held = peak() - before

    tries = []
    ratios = []
    for _ in range(3):
        _forget(path)
        reading = _seconds(partial(_read, path))
        _forget(path)
        tries.append(_seconds(partial(load_pretrained, folder)))
        ratios.append(tries[-1] / reading)
    return SimpleNamespace(
        size=path.stat().st_size, seconds=median(tries), beside=median(ratios), peak=held
    )


def save(size: str) -> SimpleNamespace:
    """Write a training checkpoint to the disk, and the same number of plain bytes.

    Returns:
        `seconds`; `beside`, its ratio to the seconds of the plain bytes; `size`, in bytes.
    """
    # Weights, and an optimizer after one step.
    model = GPT(SIZES[size])
    optimizer = adamw(model, OptimConfig())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    checkpoint = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}
    means = [mean for state in optimizer.state.values() for mean in state.values() if mean.dim()]

    tries = []
    ratios = []
    for _ in range(5):
        with _on_disk() as place:
            writing = _seconds(partial(_write, place / "bytes", [*model.parameters(), *means]))
        with _on_disk() as place:
            path = place / "last.ckpt"
            work = partial(CheckpointFiles().save_checkpoint, checkpoint, path)
            tries.append(_seconds(work))
            bytes_written = path.stat().st_size
        ratios.append(tries[-1] / writing)
    return SimpleNamespace(size=bytes_written, seconds=median(tries), beside=median(ratios))


@contextmanager
def _on_disk() -> Iterator[Path]:
    """Lend a folder on the disk. The system's own temporary folder may be in memory."""
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as place:
        yield Path(place)
    os.sync()


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _forget(path: Path) -> None:
    """Make the next reader wait for the disk; see posix_fadvise(2)."""
    if not CAN_FORGET:
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read(path: Path) -> None:
    """Read a file into memory, where a model has to be. The system's share of the time is large."""
    np.fromfile(path, np.uint8)


def _write(path: Path, tensors: list[torch.Tensor]) -> None:
    with path.open("wb") as file:
        for tensor in tensors:
            file.write(tensor.detach().numpy().data)
        file.flush()
        os.fsync(file.fileno())
