"""The real Weights & Biases, offline, and the real MLflow, with a local database.

`make test-tracking` runs them.
"""

import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

ROOT = Path(__file__).parents[2]


def train(*arguments: str, expect: int = 0, **environment: str) -> str:
    """Run train.py in the current folder; return what it wrote to stderr."""
    settings = ["max_steps=2", "eval.every=0", "eval.sample=false"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *settings, *arguments],
        env={"PATH": "/usr/bin:/bin", "HOME": str(Path.cwd()), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == expect, done.stderr
    return done.stderr


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_mlflow_keeps_a_resumed_run_as_one() -> None:
    train("logger=mlflow", "hydra.run.dir=run", "optim.lr=0.002")
    train("logger=mlflow", "resume=run", "max_steps=3")
    client = mlflow.MlflowClient("sqlite:///outputs/mlflow.db")
    [experiment] = [found for found in client.search_experiments() if found.name == "sft"]
    [run] = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in history] == [1, 2, 3]
    assert run.info.status == "FINISHED"
    assert run.data.params["optim/lr"] == "0.002"
    assert run.data.metrics["final/train_loss"] == history[-1].value


def test_an_mlflow_server_that_does_not_answer_is_refused_in_one_line() -> None:
    errors = train("logger=mlflow", expect=1, MLFLOW_TRACKING_URI="http://localhost:9")
    last = errors.splitlines()[-1]
    assert last.startswith("error: logger: mlflow ")
    assert "localhost:9" in last
    assert "Traceback" not in errors


def offline_runs() -> list[str]:
    """Return the ids of the runs that wandb has kept in this folder."""
    return sorted(path.name.rpartition("-")[2] for path in Path.cwd().rglob("offline-run-*"))


def test_wandb_keeps_a_resumed_run_as_one() -> None:
    train("logger=wandb", "hydra.run.dir=run", WANDB_MODE="offline")
    train("logger=wandb", "resume=run", "max_steps=3", WANDB_MODE="offline")
    first, second = offline_runs()
    assert first == second


def test_every_job_of_a_sweep_is_a_run_of_its_own() -> None:
    train("optim.lr=1e-4,1e-3", "logger=wandb", "-m", WANDB_MODE="offline")
    assert len(set(offline_runs())) == 2


def test_wandb_without_a_key_is_refused_in_one_line() -> None:
    errors = train("logger=wandb", expect=1)
    last = errors.splitlines()[-1]
    assert last.startswith("error: logger: wandb ")
    assert "No API key configured" in last
