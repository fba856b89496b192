"""Two launchers that share a folder, started as two machines would: `make test-sweeps`."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sft.training.checkpoints import read_newest
from tests.training.processes import free_port

ROOT = Path(__file__).parents[2]
RUN = Path("run")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def machines(checkpoint: Path, *arguments: str) -> list[subprocess.Popen[str]]:
    """Start torchrun as on two machines, with one process on each."""
    launch = [sys.executable, "-m", "torch.distributed.run"]
    launch += ["--nnodes=2", "--nproc-per-node=1"]
    launch += ["--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    train = [
        str(ROOT / "train.py"),
        f"model.checkpoint={checkpoint}",
        "model.allow_untrained=true",
        "data.prompt=alpaca",
        "eval.every=0",
        "eval.sample=false",
        "device=cpu",
        "precision=32",
        "data.sample=60",
        "batch_size=2",
        "hydra.run.dir=run",
        "resume=auto",
        *arguments,
    ]
    launchers = []
    for rank in (0, 1):
        launcher = subprocess.Popen(
            [*launch, f"--node-rank={rank}", *train],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        launchers.append(launcher)
    return launchers


def steps() -> list[int]:
    """Return the steps in metrics.csv."""
    if not (RUN / "metrics.csv").exists():
        return []
    with (RUN / "metrics.csv").open() as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_two_machines_make_one_run_and_resume_it_together(checkpoint: Path) -> None:
    first = machines(checkpoint, "epochs=100", "max_steps=1000")
    while len(steps()) < 5:
        assert all(launcher.poll() is None for launcher in first)
        time.sleep(0.05)
    first[1].terminate()
    assert all(launcher.wait(30) != 0 for launcher in first)
    done = read_newest(RUN)[1]["global_step"]
    assert 5 <= done == steps()[-1]
    log = (RUN / "train.log").read_text()
    assert f"SIGTERM: stopped after step {done}" in log

    for launcher in machines(checkpoint, "epochs=100", f"max_steps={done + 3}"):
        errors = launcher.communicate(timeout=120)[1]
        assert launcher.returncode == 0, errors
    assert steps() == list(range(1, done + 4))
    assert {path.name for path in Path().iterdir()} == {"run", "outputs"}
    log = (RUN / "train.log").read_text()
    assert f"2 × cpu, 32-true, {done + 3} steps, resumed at step {done + 1}" in log
