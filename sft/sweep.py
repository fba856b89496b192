"""The table at a sweep's end; `conf/hydra/callbacks/sweep.yaml` has Hydra call it."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf


class SweepTable(Callback):
    """After the last job: `results.csv` beside `multirun.yaml`, the best job first, the same as a table on the
    terminal, and exit code 1 if a job failed."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        jobs = sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
        rows = [_row(job, settings) for job, settings in zip(jobs, _settings(jobs), strict=True)]
        rows.sort(key=lambda row: (row["validation_loss"] is None, row["validation_loss"]))
        if rows:
            _write(rows, folder / "results.csv")
            print(f"\n{_table(rows)}\n\n{folder / 'results.csv'}")
        if failed := [row for row in rows if row["status"] != "finished"]:
            sys.exit(f"error: {len(failed)} of {len(rows)} jobs failed; their messages are above")


def _settings(jobs: list[Path]) -> list[str]:
    """For each job the overrides that not all jobs share."""
    overrides = [list(OmegaConf.load(job / ".hydra" / "overrides.yaml")) for job in jobs]
    common = set(overrides[0]).intersection(*overrides) if len(jobs) > 1 else set()
    return [" ".join(item for item in job if item not in common) for job in overrides]


def _row(job: Path, settings: str) -> dict[str, Any]:
    path = job / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {
        "job": job.name,
        "settings": settings,
        "status": "finished" if summary else "failed",
        "validation_loss": summary.get("best_validation_loss"),
        "train_loss": summary.get("losses", {}).get("train/loss", {}).get("last"),
        "seconds": summary.get("seconds"),
    }


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _table(rows: list[dict[str, Any]]) -> str:
    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    lines = [f"{'job':>4} {'status':>9} {'validation':>11} {'train':>9} {'seconds':>8}  settings"]
    for row in rows:
        seconds = "-" if row["seconds"] is None else f"{row['seconds']:.0f}"
        losses = f"{cell(row['validation_loss']):>11} {cell(row['train_loss']):>9}"
        lines.append(f"{row['job']:>4} {row['status']:>9} {losses} {seconds:>8}  {row['settings']}")
    return "\n".join(lines)
