"""The table at a sweep's end; `conf/hydra/callbacks/sweep.yaml` has Hydra call it."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from sft.files import writing
from sft.summaries import RUN_SUMMARY, RunSummary, read_run_summary

LOWER_IS_BETTER = ("validation_loss", "loss")


class SweepTable(Callback):
    """After the last job: `results.csv` beside `multirun.yaml`, the best job first, the same as a table on the
    terminal, and exit code 1 if a job failed."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        try:  # Hydra would make a warning of an error
            rank = config.eval.rank
            rows = _rows(folder, rank)
            if rows:
                _write(rows, folder / "results.csv")
                print(f"\n{_table(rows, rank)}\n\n{folder / 'results.csv'}")
        except Exception as error:
            sys.exit(f"error: {folder}: no table of the sweep could be made ({error!r})")
        if failed := [row for row in rows if row["status"] != "finished"]:
            sys.exit(f"error: {len(failed)} of {len(rows)} jobs failed; their messages are above")


def _rows(folder: Path, rank: str) -> list[dict[str, Any]]:
    """A row for each folder that Hydra made for a job, the best by the number `rank` first."""
    jobs = [path.parents[1] for path in sorted(folder.glob("**/.hydra/overrides.yaml"))]
    overrides = [list(OmegaConf.load(job / ".hydra" / "overrides.yaml")) for job in jobs]
    common = set(overrides[0]).intersection(*overrides) if len(jobs) > 1 else set()
    settings = [" ".join(item for item in job if item not in common) for job in overrides]
    rows = [_row(str(job.relative_to(folder)), job, text, rank) for job, text in zip(jobs, settings, strict=True)]
    sign = 1 if rank in LOWER_IS_BETTER else -1
    return sorted(rows, key=lambda row: (row[rank] is None, sign * (row[rank] or 0), len(row["job"])))


def _row(name: str, job: Path, settings: str, rank: str) -> dict[str, Any]:
    summary = read_run_summary(job) if (job / RUN_SUMMARY).exists() else None
    evaluation = _read(job / "evaluation" / "summary.json")
    train_loss = summary.losses.get("train/eval_loss") if summary else None
    row = {
        "job": name,
        "settings": settings,
        "status": "finished" if summary and _is_evaluated(summary, evaluation) else "failed",
        "validation_loss": summary.best_validation_loss if summary else None,
        "train_loss": train_loss.last if train_loss else None,
        "seconds": summary.seconds if summary else None,
    }
    return row if rank == "validation_loss" else row | _measured(evaluation.get("tuned", {}), rank)


def _is_evaluated(summary: RunSummary, evaluation: dict[str, Any]) -> bool:
    """Whether an evaluation was not asked for, or has come to numbers."""
    if not summary.config["evaluate"]:
        return True
    judge = evaluation.get("judge")
    return bool(evaluation) and (judge is None or judge["coverage"]["tuned"] > 0)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _measured(tuned: dict[str, Any], rank: str) -> dict[str, Any]:
    """A number of the evaluation, and its 95% interval."""
    if rank == "score":
        judge = tuned.get("judge") or {}
        value, interval = judge.get("mean"), judge.get("interval")
    else:
        value, interval = tuned.get(rank), tuned.get("intervals", {}).get(rank)
    return {rank: value} | dict(zip(("low", "high"), interval or (None, None), strict=True))


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    with writing(path), path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _table(rows: list[dict[str, Any]], rank: str) -> str:
    chosen = () if rank == "validation_loss" else (rank, "low", "high")
    columns = ("validation_loss", "train_loss", *chosen, "seconds")
    lines = [f"{'job':>4} {'status':>9}" + "".join(f"{name:>16}" for name in columns) + "  settings"]
    for row in rows:
        cells = "".join(f"{'-' if row[name] is None else f'{row[name]:.4g}':>16}" for name in columns)
        lines.append(f"{row['job']:>4} {row['status']:>9}{cells}  {row['settings']}")
    return "\n".join(lines)
