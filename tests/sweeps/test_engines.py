"""Hydra's launchers and Optuna's search with the packages themselves: `make test-sweeps`."""

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
]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    records = [{"instruction": f"Say {i}.", "output": f"{i}."} for i in range(60)]
    Path("mine.json").write_text(json.dumps(records))


def sweep(*arguments: str, expect: int = 0) -> tuple[list[dict[str, str]], str]:
    """The rows of the sweep's table, and what was said on stderr."""
    given = [
        *TINY,
        "data.path=mine.json",
        "model.allow_untrained=true",
        *arguments,
        "hydra.sweep.dir=sweep",
        "-m",
    ]
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *given], capture_output=True, text=True
    )
    assert done.returncode == expect, done.stderr
    with Path("sweep/results.csv").open() as file:
        return list(csv.DictReader(file)), done.stderr


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_jobs_beside_each_other(launcher: str) -> None:
    rows, _ = sweep(f"hydra/launcher={launcher}", "optim.lr=1e-4,1e-3")
    assert {(row["settings"], row["status"]) for row in rows} == {
        ("optim.lr=0.0001", "finished"),
        ("optim.lr=0.001", "finished"),
    }
    assert float(rows[0]["validation_loss"]) < float(rows[1]["validation_loss"])
    if launcher == "joblib":
        done = [Path("sweep", job, "summary.json").stat().st_mtime_ns for job in "01"]
        sweep(f"hydra/launcher={launcher}", "optim.lr=1e-4,1e-3", "resume=auto")
        assert [Path("sweep", job, "summary.json").stat().st_mtime_ns for job in "01"] == done


def test_a_job_that_fails_does_not_end_the_others() -> None:
    rows, told = sweep("hydra/launcher=joblib", "data.split=[0.8,0.1,0.1],[0.9,0.9,0.9]", expect=1)
    assert sorted(row["status"] for row in rows) == ["failed", "finished"]
    assert "error: job 1: data.split: [0.9, 0.9, 0.9] sums to 2.7, expected 1" in told
    assert told.strip().splitlines()[-1].startswith("error: 1 of 2 jobs failed")


def test_a_search() -> None:
    rows, _ = sweep("sweep=optuna", "hydra.sweeper.n_trials=4")
    assert len({row["settings"] for row in rows}) == 4
    best = min(float(row["validation_loss"]) for row in rows)
    found = Path("sweep/optimization_results.yaml").read_text()
    assert f"best_value: {best}"[:20] in found


def test_a_search_in_which_all_fails() -> None:
    given = [
        "sweep=optuna",
        "hydra.sweeper.n_trials=2",
        "data.split=[0.9,0.9,0.9]",
        "hydra.sweep.dir=sweep",
        "-m",
    ]
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *given], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: no job of the search")
    assert "Traceback" not in done.stderr
