"""The table at a sweep's end; `conf/hydra/callbacks/sweep.yaml` has Hydra call it."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sft.config import InputError
from sft.files import writing


class SweepTable(Callback):
    """After the last job: `results.csv` beside `multirun.yaml`, the best job first, the same as a table on the
    terminal, and exit code 1 if a job failed."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        try:  # Hydra would make a warning of an error
            rows = _rows(folder)
            if rows:
                _write(rows, folder / "results.csv")
                print(f"\n{_table(rows)}\n\n{folder / 'results.csv'}")
        except (OSError, ValueError, InputError, OmegaConfBaseException) as error:
            sys.exit(f"error: {folder}: no table of the sweep could be made ({error})")
        if failed := [row for row in rows if row["status"] != "finished"]:
            sys.exit(f"error: {len(failed)} of {len(rows)} jobs failed; their messages are above")


def _rows(folder: Path) -> list[dict[str, Any]]:
    """A row for each folder that Hydra made for a job, the lowest validation loss first."""
    jobs = [path.parents[1] for path in sorted(folder.glob("**/.hydra/overrides.yaml"))]
    overrides = [list(OmegaConf.load(job / ".hydra" / "overrides.yaml")) for job in jobs]
    common = set(overrides[0]).intersection(*overrides) if len(jobs) > 1 else set()
    settings = [" ".join(item for item in job if item not in common) for job in overrides]
    rows = [_row(str(job.relative_to(folder)), job, text) for job, text in zip(jobs, settings, strict=True)]
    return sorted(rows, key=lambda row: (row["validation_loss"] is None, row["validation_loss"], len(row["job"])))


def _row(name: str, job: Path, settings: str) -> dict[str, Any]:
    path = job / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {
        "job": name,
        "settings": settings,
        "status": "finished" if summary else "failed",
        "validation_loss": summary.get("best_validation_loss"),
        "train_loss": summary.get("losses", {}).get("train/eval_loss", {}).get("last"),
        "seconds": summary.get("seconds"),
    }


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    with writing(path), path.open("w", newline="", encoding="utf-8") as file:
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
