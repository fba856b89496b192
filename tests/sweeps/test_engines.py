"""Hydra's launchers and Optuna's search, with the real packages: `make test-sweeps`."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = [
    "max_steps=2",
    "eval.every=0",
    "eval.sample=false",
    "logger=none",
    "device=cpu",
    "data=json",
    "data.path=mine.json",
    "model.allow_untrained=true",
]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    records = [{"instruction": f"Say {i}.", "output": f"{i}."} for i in range(60)]
    Path("mine.json").write_text(json.dumps(records))


def multirun(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a sweep of train.py into the folder `sweep`."""
    command = [sys.executable, str(ROOT / "train.py"), *TINY, *arguments]
    command += ["hydra.sweep.dir=sweep", "-m"]
    return subprocess.run(command, capture_output=True, text=True)


def table() -> list[dict[str, str]]:
    """Return the rows of the sweep's table."""
    with Path("sweep/results.csv").open() as file:
        return list(csv.DictReader(file))


def finish_times() -> list[int]:
    """Return when each of the two jobs wrote its summary."""
    return [Path("sweep", job, "summary.json").stat().st_mtime_ns for job in ("0", "1")]


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_jobs_that_run_in_parallel_fill_one_table(launcher: str) -> None:
    done = multirun(f"hydra/launcher={launcher}", "optim.lr=1e-4,1e-3")
    assert done.returncode == 0, done.stderr
    rows = table()
    assert {(row["settings"], row["status"]) for row in rows} == {
        ("optim.lr=0.0001", "finished"),
        ("optim.lr=0.001", "finished"),
    }
    assert float(rows[0]["validation_loss"]) < float(rows[1]["validation_loss"])


def test_a_resumed_sweep_leaves_finished_jobs_alone() -> None:
    sweep = ("hydra/launcher=joblib", "optim.lr=1e-4,1e-3")
    assert multirun(*sweep).returncode == 0
    finished = finish_times()
    assert multirun(*sweep, "resume=auto").returncode == 0
    assert finish_times() == finished


def test_a_job_that_fails_does_not_end_the_others() -> None:
    done = multirun("hydra/launcher=joblib", "data.split=[0.8,0.1,0.1],[0.9,0.9,0.9]")
    assert done.returncode == 1
    assert sorted(row["status"] for row in table()) == ["failed", "finished"]
    assert "error: job 1: data.split: [0.9, 0.9, 0.9]" in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: 1 of 2 jobs failed")


def test_a_search_reports_its_best_job() -> None:
    done = multirun("sweep=optuna", "hydra.sweeper.n_trials=4")
    assert done.returncode == 0, done.stderr
    rows = table()
    assert len({row["settings"] for row in rows}) == 4
    best = min(float(row["validation_loss"]) for row in rows)
    found = Path("sweep/optimization_results.yaml").read_text()
    assert f"best_value: {best}"[:20] in found


def test_a_search_in_which_every_job_fails_is_an_error() -> None:
    done = multirun("sweep=optuna", "hydra.sweeper.n_trials=2", "data.split=[0.9,0.9,0.9]")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: no job of the search")
    assert "Traceback" not in done.stderr
