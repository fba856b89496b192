"""The table at a sweep's end; `conf/hydra/callbacks/sweep.yaml` has Hydra call it."""

import csv
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from sft.atomic import write_json, writing
from sft.folders import is_rank_0, sweep_folder
from sft.summaries import RUN_SUMMARY, read_run_summary

NOTES = ".jobs"  # of a sweep's folder, while it goes on: what became of each job


class SweepTable(Callback):
    """After the last job: `results.csv` beside `multirun.yaml`, the best job first, the same as a table on the
    terminal, and exit code 1 if a job failed."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        # What became of the jobs of a sweep that was cut off here says nothing of this one's.
        if is_rank_0():
            shutil.rmtree(Path(config.hydra.sweep.dir) / NOTES, ignore_errors=True)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if not is_rank_0():
            return
        folder = Path(config.hydra.sweep.dir)
        try:  # Hydra would make a warning of an error
            rank = config.eval.rank
            rows = _rows(folder, rank)
            if rows:
                _write(rows, folder / "results.csv")
                print(f"\n{_table(rows, rank)}\n\n{folder / 'results.csv'}")
            shutil.rmtree(folder / NOTES, ignore_errors=True)
        except Exception as error:
            sys.exit(f"error: {folder}: no table of the sweep could be made ({error!r})")
        if failed := [row for row in rows if row["status"] != "finished"]:
            sys.exit(f"error: {len(failed)} of {len(rows)} jobs failed; their messages are above")


def note_job(status: str, reason: str = "") -> None:
    """Keep what became of this job, for the table; jobs may run in other processes than the sweep.

    The note lies in the sweep's folder, since the job's own may be another's.

    Args:
        status: begun, trained, finished or failed.
        reason: the error that ended it.
    """
    if not is_rank_0():
        return
    hydra = HydraConfig.get()
    path = sweep_folder() / NOTES / f"{hydra.job.num}.json"
    path.parent.mkdir(exist_ok=True)
    trained = status in ("trained", "finished") or (
        status == "failed" and _read(path).get("trained", False)
    )
    note = {
        "folder": hydra.runtime.output_dir,
        "overrides": list(hydra.overrides.task),
        "trained": trained,
    }
    write_json(path, note | {"status": status, "reason": reason})


def _rows(folder: Path, rank: str) -> list[dict[str, Any]]:
    """A row for each job of this sweep, the best by the number `rank` first."""
    notes = [
        _read(path)
        for path in sorted((folder / NOTES).glob("*.json"), key=lambda path: int(path.stem))
    ]
    overrides = [note["overrides"] for note in notes]
    common = set(overrides[0]).intersection(*overrides) if len(notes) > 1 else set()
    settings = [" ".join(item for item in job if item not in common) for job in overrides]
    rows = [_row(folder, note, text, rank) for note, text in zip(notes, settings, strict=True)]
    sign = 1 if _lower_is_better(rank) else -1
    return sorted(rows, key=lambda row: (row[rank] is None, sign * (row[rank] or 0)))


def _lower_is_better(rank: str) -> bool:
    if rank == "validation_loss":
        return True
    # This import takes seconds, and most sweeps go without.
    from sft.scoring.metrics import BY_NAME

    return BY_NAME[rank].lower_is_better


def _row(folder: Path, note: dict[str, Any], settings: str, rank: str) -> dict[str, Any]:
    """A job's row, in which only numbers that this job came to stand, not those of another run in its folder."""
    job, finished = Path(note["folder"]), note["status"] == "finished"
    summary = read_run_summary(job) if note["trained"] and (job / RUN_SUMMARY).exists() else None
    train_loss = summary.losses.get("train/eval_loss") if summary else None
    row = {
        "job": os.path.relpath(job, folder),
        "settings": settings,
        "status": "finished" if finished else "failed",
        "validation_loss": summary.best_validation_loss if summary else None,
        "train_loss": train_loss.last if train_loss else None,
        "seconds": summary.seconds if summary else None,
    }
    if rank != "validation_loss":
        row |= _measured(job / "evaluation", rank, finished)
    return row | {
        "reason": "" if finished else note["reason"] or "it ended without a word, perhaps killed"
    }


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _measured(folder: Path, rank: str, finished: bool) -> dict[str, Any]:
    """Return a mean of the job's evaluation, and its 95% interval; None if it was not evaluated."""
    from sft.scoring.results import read_summary

    if not finished or not (folder / "summary.json").exists():
        return {rank: None, "low": None, "high": None}
    tuned = read_summary(folder).tuned
    low, high = tuned.interval(rank) or (None, None)
    return {rank: tuned.mean(rank), "low": low, "high": high}


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    with writing(path), path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _table(rows: list[dict[str, Any]], rank: str) -> str:
    chosen = () if rank == "validation_loss" else (rank, "low", "high")
    columns = ("validation_loss", "train_loss", *chosen, "seconds")
    lines = [
        f"{'job':>4} {'status':>9}" + "".join(f"{name:>16}" for name in columns) + "  settings"
    ]
    for row in rows:
        cells = "".join(
            f"{'-' if row[name] is None else f'{row[name]:.4g}':>16}" for name in columns
        )
        reason = f"  ({row['reason']})" if row["reason"] else ""
        lines.append(f"{row['job']:>4} {row['status']:>9}{cells}  {row['settings']}{reason}")
    return "\n".join(lines)
