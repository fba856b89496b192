"""A sweep: notes on its jobs, and the table at its end."""

import csv
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from sft.atomic import read_json, write_json, writing
from sft.config.schema import TrainConfig
from sft.errors import InputError, counted
from sft.folders import is_rank_0, sweep_folder
from sft.metrics import BY_NAME
from sft.shell import setting
from sft.summaries import RUN_SUMMARY, read_run_summary

# A folder in the sweep's folder, with a note on each job while the sweep goes on.
NOTES = ".jobs"


# The jobs


def note_job(status: str, reason: str = "") -> None:
    """Note the status of this job, for the table. Jobs may run in other processes than the sweep.

    The note is kept in the sweep's folder, since the job's own folder may belong to another run.

    Args:
        status: begun, trained, finished or failed.
        reason: the error that ended the job.
    """
    if not is_rank_0():
        return
    hydra = HydraConfig.get()
    path = sweep_folder() / NOTES / f"{hydra.job.num}.json"
    path.parent.mkdir(exist_ok=True)

    # A job that trained may still fail, in its evaluation.
    trained = status in ("trained", "finished")
    if status == "failed" and path.exists():
        trained = read_json(path)["trained"]
    note = {
        "folder": hydra.runtime.output_dir,
        "overrides": list(hydra.overrides.task),
        "trained": trained,
        "status": status,
        "reason": reason,
    }
    write_json(path, note)


def check_finished_run(config: TrainConfig, folder: Path) -> None:
    """Raise InputError if this job resumed a finished run that has other limits than its own."""
    if not (folder / RUN_SUMMARY).exists():
        return
    past = read_run_summary(folder).config
    for key in ("epochs", "max_steps"):
        wanted = getattr(config, key)
        if past.get(key, wanted) != wanted:
            raise InputError(
                f"{key}: {wanted}, but the run in {folder} has finished with {key}={past[key]}; "
                "give the same value, a larger one, or a new hydra.sweep.dir="
            )


# The table


class SweepTable(Callback):
    """Writes `results.csv` after the last job, and prints it as a table, the best job first.

    `conf/hydra/callbacks/sweep.yaml` has Hydra call it. The exit code is 1 if a job failed.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        # An interrupted sweep leaves its notes behind. They are not about the jobs of this one.
        if is_rank_0():
            shutil.rmtree(Path(config.hydra.sweep.dir) / NOTES, ignore_errors=True)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if not is_rank_0():
            return
        folder = Path(config.hydra.sweep.dir)
        try:
            rank = config.eval.rank
            rows = _rows(folder, rank)
            if rows:
                _write(rows, folder / "results.csv")
                print(f"\n{_table(rows, rank)}\n\n{folder / 'results.csv'}{_next(folder, rows[0])}")
                _compare_groups(folder, rows, rank)
            shutil.rmtree(folder / NOTES, ignore_errors=True)
        except Exception as error:
            # Hydra turns an exception of a callback into a warning.
            sys.exit(f"error: {folder}: no table of the sweep could be made ({error!r})")

        failed = [row for row in rows if row["status"] != "finished"]
        if failed:
            jobs = counted(len(rows), "job")
            sys.exit(f"error: {len(failed)} of {jobs} failed; see their messages above")


def _compare_groups(folder: Path, rows: list[dict[str, Any]], rank: str) -> None:
    """Compare the groups of finished jobs that differ in the seed alone, and write their page.

    Without an evaluation and with one seed each, there is nothing to draw from.
    """
    finished = [folder / row["job"] for row in rows if row["status"] == "finished"]
    if len(finished) < 2:
        return
    # This import takes seconds, and a sweep of one job goes without.
    from sft.evaluation.groups import compare_groups, grouped, groups_text, keep, read_member

    evaluated = all((job / "evaluation" / "records.jsonl").is_file() for job in finished)
    try:
        groups = grouped([read_member(job, evaluated) for job in sorted(finished)])
        if not evaluated and all(len(group.members) == 1 for group in groups):
            return
        found = compare_groups(groups, rank)
    except InputError as error:
        print(f"\nthe groups are not compared: {error}")
        return
    page = keep(folder, groups, found)
    print(f"\n{groups_text(found)}\n\nto look at: {page}")


def _rows(folder: Path, rank: str) -> list[dict[str, Any]]:
    """Return a row for each job of the sweep, the best by the number `rank` first."""
    paths = sorted((folder / NOTES).glob("*.json"), key=lambda path: int(path.stem))
    notes = [read_json(path) for path in paths]

    # A setting that all jobs share says nothing about one of them.
    overrides = [note["overrides"] for note in notes]
    common = set(overrides[0]).intersection(*overrides) if len(notes) > 1 else set()
    rows = []
    for note in notes:
        settings = " ".join(item for item in note["overrides"] if item not in common)
        rows.append(_row(folder, note, settings, rank))

    sign = 1 if _lower_is_better(rank) else -1
    return sorted(rows, key=lambda row: (row[rank] is None, sign * (row[rank] or 0)))


def _lower_is_better(rank: str) -> bool:
    return rank == "validation_loss" or BY_NAME[rank].lower_is_better


def _row(folder: Path, note: dict[str, Any], settings: str, rank: str) -> dict[str, Any]:
    """Return the row of one job.

    It has only numbers that this job produced. Another run's may stand in the job's folder.
    """
    job = Path(note["folder"])
    finished = note["status"] == "finished"
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
    reason = note["reason"] or "it ended without a message, perhaps killed"
    return row | {"reason": "" if finished else reason}


def _measured(folder: Path, rank: str, finished: bool) -> dict[str, Any]:
    """Return a mean of the job's evaluation, and its 95% interval; None if it was not evaluated."""
    from sft.scoring.results import read_summary

    if not finished or not (folder / "summary.json").exists():
        return {rank: None, "low": None, "high": None}
    tuned = read_summary(folder).tuned
    low, high = tuned.interval(rank) or (None, None)
    return {rank: tuned.mean(rank), "low": low, "high": high}


def _next(folder: Path, best: dict[str, Any]) -> str:
    """Return what to do with the best job. `outputs/latest` is the last one, and not the best."""
    if best["status"] != "finished":
        return ""
    return f"\nNext, with the best job: python evaluate.py {setting('run', folder / best['job'])}"


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    with writing(path), path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _table(rows: list[dict[str, Any]], rank: str) -> str:
    chosen = () if rank == "validation_loss" else (rank, "low", "high")
    columns = ("validation_loss", "train_loss", *chosen, "seconds")
    names = "".join(f"{name:>16}" for name in columns)
    lines = [f"{'job':>4} {'status':>9}{names}  settings"]
    for row in rows:
        numbers = ["-" if row[name] is None else f"{row[name]:.4g}" for name in columns]
        cells = "".join(f"{number:>16}" for number in numbers)
        reason = f"  ({row['reason']})" if row["reason"] else ""
        lines.append(f"{row['job']:>4} {row['status']:>9}{cells}  {row['settings']}{reason}")
    return "\n".join(lines)
