"""lm-evaluation-harness counts the exact match that evaluate.py counted: `make test-clients`."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.doors import ROOT

TRAINED = ["max_steps=100", "optim.lr=3e-4", "eval.sample=false", "hydra.run.dir=run"]
EVALUATED = ["run=run", "limit=60", "train_records=0"]
PLAIN = ["device=cpu", "precision=32"]


def run(*command: str, folder: Path) -> str:
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_lm_eval_counts_the_exact_match_of_evaluate(tmp_path: Path) -> None:
    run(str(ROOT / "train.py"), *TRAINED, *PLAIN, folder=tmp_path)
    run(str(ROOT / "evaluate.py"), *EVALUATED, *PLAIN, folder=tmp_path)
    printed = run("-m", "sft.export", "run", "--format", "lm-eval", folder=tmp_path)
    assert "otherwise" not in printed
    command = re.search(r"to check: lm_eval (.*)", printed)
    assert command

    places = ["--output_path", "out", "--device", "cpu", "--batch_size", "8", "--log_samples"]
    run("-m", "lm_eval", *command[1].split(), *places, folder=tmp_path)
    [result] = (tmp_path / "out").rglob("results_*.json")
    [found] = json.loads(result.read_text())["results"].values()

    summary = json.loads((tmp_path / "run" / "evaluation" / "summary.json").read_text())
    ours = summary["tuned"]["exact_match"]
    assert 0.2 < ours < 1
    assert found["exact_match,none"] == pytest.approx(ours)

    # Also record by record.
    lines = (tmp_path / "run" / "evaluation" / "records.jsonl").read_text().splitlines()
    rows = {row["record"]: row["tuned"]["exact_match"] for row in map(json.loads, lines)}
    [samples] = (tmp_path / "out").rglob("samples_*.jsonl")
    theirs = {}
    for line in samples.read_text().splitlines():
        sample = json.loads(line)
        theirs[sample["doc"]["record"]] = sample["exact_match"]
    assert theirs == rows
