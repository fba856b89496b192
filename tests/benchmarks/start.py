"""How long it takes until something happens: to the first optimizer step, and to a loaded checkpoint."""

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch

from sft.gpt2 import weights
from sft.gpt2.checkpoint import load_pretrained, save_pretrained
from sft.gpt2.hub import WEIGHTS
from sft.gpt2.tokenizer import load_tokenizer
from tests.benchmarks.data import in_own_process, peak
from tests.benchmarks.speed import SIZES

ROOT = Path(__file__).parents[2]
CAN_FORGET = hasattr(os, "posix_fadvise")  # macOS has no such call: there a file that was just written is in memory


def first_step() -> float:
    """Seconds from `python train.py` to its first step in metrics.csv; of three tries the fastest."""
    tries = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as place:
            rows = Path(place) / "run" / "metrics.csv"
            began = time.perf_counter()
            settings = [f"hydra.run.dir={rows.parent}", "eval.every=0", "eval.sample=false", "max_steps=1"]
            command = [sys.executable, str(ROOT / "train.py"), *settings]
            with subprocess.Popen(command, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
                while not rows.exists() or "\n1," not in rows.read_text():
                    assert process.poll() is None, "train.py ended without a step"
                    time.sleep(0.01)
                tries.append(time.perf_counter() - began)
    return min(tries)


def load(size: str, vocabulary: Path) -> SimpleNamespace:
    """Loading a checkpoint in a process of its own: seconds, those to read its file, and bytes of file and memory."""
    (ROOT / "build").mkdir(exist_ok=True)  # on a disk, which a system's own temporary folder may not be
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as place:
        folder = Path(place) / "model"
        model = weights.skeleton(SIZES[size]).to_empty(device="cpu")
        for parameter in model.parameters():
            torch.nn.init.constant_(parameter, 0.5)
        save_pretrained(model, folder, load_tokenizer(vocabulary))
        del model
        return in_own_process(partial(_load, folder))


def _load(folder: Path) -> SimpleNamespace:
    path, before = folder / WEIGHTS, peak()
    _forget(path)
    reading = _read(path)
    _forget(path)
    began = time.perf_counter()
    load_pretrained(folder)
    seconds = time.perf_counter() - began
    return SimpleNamespace(size=path.stat().st_size, seconds=seconds, reading=reading, peak=peak() - before)


def _forget(path: Path) -> None:
    """Have the next reader wait for the disk; see posix_fadvise(2)."""
    if not CAN_FORGET:
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read(path: Path) -> float:
    began, memory = time.perf_counter(), bytearray(1 << 24)
    with path.open("rb", buffering=0) as file:
        while file.readinto(memory):
            pass
    return time.perf_counter() - began
