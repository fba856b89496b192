"""Training on a machine that others use: what is left of its speed beside busy processes."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SETTINGS = ("max_steps=50", "eval.every=0", "eval.sample=false", "logger=none", "device=cpu")


class Beside(NamedTuple):
    """Tokens per second of gpt2-nano, alone and beside busy processes, one more than CPUs."""

    alone: float
    beside: float
    busy: int

    @property
    def share(self) -> float:
        """The speed beside the fair share: a thread for each CPU and the others divide the CPUs."""
        cpus = os.cpu_count() or 1
        return self.beside / self.alone * (cpus + self.busy) / cpus


# Busy processes that are one more than there are CPUs, so that nobody has a CPU alone.
COUNT = (os.cpu_count() or 1) + 1


@contextmanager
def busy_processes(count: int = COUNT) -> Iterator[None]:
    """Keep so many processes busy, none of which ever sleeps."""
    with ExitStack() as others:
        for _ in range(count):
            process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            others.callback(process.wait)
            others.callback(process.kill)
        yield


def nano() -> Beside:
    """Train the miniature twice with `train.py`; `threads=auto` sees the busy processes."""
    return Beside(_tokens_per_second(0), _tokens_per_second(COUNT), COUNT)


def _tokens_per_second(busy: int) -> float:
    with tempfile.TemporaryDirectory() as place, busy_processes(busy):
        run = Path(place) / "run"
        command = [sys.executable, str(ROOT / "train.py"), *SETTINGS, f"hydra.run.dir={run}"]
        subprocess.run(command, cwd=place, check=True, capture_output=True)
        found: float = json.loads((run / "summary.json").read_text())["tokens_per_sec"]
    return found
