"""`docs/loop.py`: the loop without a framework is the loop of train.py."""

import csv
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT

LOOP = ROOT / "docs" / "loop.py"
STEPS = 6


def test_the_visible_loop_has_the_losses_of_train_py(
    command: Callable[..., None], tmp_path: Path
) -> None:
    # The settings are train.py's own: nano's data and recipe. Only what costs time is turned off.
    without_probes = ["eval.every=0", "eval.batches=1", "eval.sample=false", "logger=none"]
    command(
        f"max_steps={STEPS}",
        "device=cpu",
        "precision=32",
        "hydra.run.dir=run",
        *without_probes,
    )
    with (tmp_path / "run" / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    assert len(expected) == STEPS

    found = runpy.run_path(str(LOOP))["train"](STEPS)
    assert found == pytest.approx(expected, abs=1e-6)


def test_the_visible_loop_uses_no_framework(tmp_path: Path) -> None:
    # In a process of its own, as the reader runs it, no other test has imported Lightning.
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{str(LOOP)!r}, '--steps', '2']\n"
        f"runpy.run_path({str(LOOP)!r}, run_name='__main__')\n"
        "print(sorted({'lightning', 'hydra', 'omegaconf'} & set(sys.modules)))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    )
    *steps, frameworks = ran.stdout.splitlines()
    assert [line.split()[:3] for line in steps] == [["step", "1", "loss"], ["step", "2", "loss"]]
    assert frameworks == "[]"
