"""A sweep: its jobs do not end each other, and its table holds only what they produced."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sft.config.schema import TrainConfig
from sft.errors import InputError
from sft.summaries import write_run_summary
from sft.sweep import NOTES, _compare_groups, _rows
from tests.commands import line
from tests.evaluation.test_groups import sweep as write_sweep
from tests.summaries import run_summary


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("error", "traceback"),
    [(InputError("bad data"), False), (OSError(28, "full"), False), (RuntimeError("a bug"), True)],
)
def test_in_a_sweep_the_other_jobs_run(
    command: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    traceback: bool,
) -> None:
    import train

    done = []

    def fit(config: TrainConfig, folder: Path, changed: str) -> None:
        if config.seed == 2:
            raise error
        write_run_summary(folder, run_summary(config={"evaluate": False}))
        done.append(config.seed)

    monkeypatch.setattr(train, "fit", fit)
    assert line(command, "-m", "seed=1,2,-3,4").startswith("2 of 4 jobs failed")
    assert done == [1, 4]
    said = capsys.readouterr().err
    assert [text for text in said.splitlines() if text.startswith("error: ")] == [
        f"error: job 1: {error}",
        "error: job 2: seed: -3 is out of range, expected at least 0",
    ]
    assert ("Traceback" in said) is traceback


def test_a_sweep_ranks_its_evaluated_jobs(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., None]
) -> None:
    """The jobs' folders may have names of the user's, and other folders may stand beside them."""
    (tmp_path / "sweep" / "7").mkdir(parents=True)
    tiny = (
        f"model.checkpoint={checkpoint}",
        "model.allow_untrained=true",
        "max_steps=1",
        "eval.sample=false",
    )
    folders = ("hydra.sweep.dir=sweep", "hydra.sweep.subdir=lr-${optim.lr}")
    small = ("data.sample=40", "eval.every=0", "device=cpu", "precision=32", "batch_size=32")
    rank = ("evaluate=true", "eval.rank=loss")

    # At the last learning rate the loss is NaN.
    message = line(
        command, "-m", "optim.lr=1e-9,1e-2,1e30", *tiny, *folders, *small, *rank, "max_steps=2"
    )
    assert message.startswith("1 of 3 jobs failed")
    rows = list(csv.DictReader((tmp_path / "sweep" / "results.csv").open()))
    assert [row["job"] for row in rows] == ["lr-0.01", "lr-1e-09", "lr-1e+30"]
    assert [row["status"] for row in rows] == ["finished", "finished", "failed"]
    assert float(rows[0]["low"]) < float(rows[0]["loss"]) < float(rows[0]["high"])
    assert float(rows[0]["loss"]) < float(rows[1]["loss"])
    assert rows[2]["loss"] == ""
    evaluation = json.loads(
        (tmp_path / "sweep" / "lr-0.01" / "evaluation" / "summary.json").read_text()
    )
    assert (evaluation["split"], evaluation["tuned"]["loss"]) == (
        "validation",
        float(rows[0]["loss"]),
    )


def test_a_sweep_started_again_does_what_is_left(
    command: Callable[..., None], checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.json").write_text(
        json.dumps([{"instruction": f"Say {i}.", "output": "ok"} for i in range(40)])
    )
    sweep = [
        f"model.checkpoint={checkpoint}",
        "model.allow_untrained=true",
        "eval.every=0",
        "eval.sample=false",
    ]
    sweep += [
        "data=json",
        "data.path=mine.json",
        "device=cpu",
        "precision=32",
        "logger=none",
        "max_steps=2",
    ]
    sweep += ["optim.lr=1e-4,1e-3", "resume=auto", "hydra.sweep.dir=sweep", "-m"]
    command(*sweep)
    done = [(tmp_path / "sweep" / job / "summary.json").stat().st_mtime_ns for job in "01"]

    # The second looks as if it had been killed at its end.
    (tmp_path / "sweep" / "1" / "summary.json").unlink()
    command(*sweep)
    assert (tmp_path / "sweep" / "0" / "summary.json").stat().st_mtime_ns == done[0]
    assert (tmp_path / "sweep" / "1" / "summary.json").stat().st_mtime_ns > done[1]
    rows = list(csv.DictReader((tmp_path / "sweep" / "results.csv").open()))
    assert sorted((row["settings"], row["status"]) for row in rows) == [
        ("optim.lr=0.0001", "finished"),
        ("optim.lr=0.001", "finished"),
    ]


def rows_of(sweep: str) -> dict[str, dict[str, str]]:
    with Path(sweep, "results.csv").open() as file:
        return {row["job"]: row for row in csv.DictReader(file)}


def test_a_job_that_was_refused_is_not_listed_as_finished(
    command: Callable[..., None], checkpoint: Path
) -> None:
    """The sweep's folder holds the runs of another sweep, which have numbers of their own."""
    records = [{"instruction": f"Say {i}.", "output": "ok"} for i in range(40)]
    Path("mine.json").write_text(json.dumps(records))
    tiny = [
        f"model.checkpoint={checkpoint}",
        "model.allow_untrained=true",
        "eval.every=0",
        "eval.sample=false",
    ]
    tiny += [
        "data=json",
        "data.path=mine.json",
        "device=cpu",
        "precision=32",
        "logger=none",
        "hydra.sweep.dir=sweep",
    ]
    command(*tiny, "optim.lr=1e-4,1e-3", "max_steps=2", "-m")
    assert [row["status"] for row in rows_of("sweep").values()] == ["finished", "finished"]
    before = {
        path: path.read_bytes()
        for job in "01"
        for path in Path("sweep", job).rglob("*")
        if path.is_file()
    }
    before = {path: content for path, content in before.items() if path.name != "train.log"}

    refused = [
        (["max_steps=2", "optim.lr=1e-4,1e-3"], "holds a run; add resume=auto"),
        (["max_steps=2", "optim.lr=1e-5,1e-6", "resume=auto"], "optim.lr: 1e-0"),
        (["max_steps=2", "optim.lr=1e-4,1e-3", "batch_size=4", "resume=auto"], "batch_size: 4"),
        (["max_steps=1", "optim.lr=1e-4,1e-3", "resume=auto"], "max_steps: 1"),
    ]
    for arguments, reason in refused:
        assert line(command, *tiny, *arguments, "-m").startswith("2 of 2 jobs failed")
        for job, row in rows_of("sweep").items():
            assert (job, row["status"], row["validation_loss"]) == (job, "failed", "")
            assert reason in row["reason"]
    assert {path: path.read_bytes() for path in before} == before

    # A setting that only the earlier sweep was given makes a difference, too.
    assert "failed" in line(
        command, *tiny, "max_steps=2", "optim.lr=1e-4,1e-3", "seed=1", "resume=auto", "-m"
    )
    command(*tiny, "max_steps=3", "optim.lr=1e-4", "resume=auto", "-m")
    assert {job: (row["status"], row["reason"]) for job, row in rows_of("sweep").items()} == {
        "0": ("finished", "")
    }
    assert not Path("sweep/.jobs").exists()


def test_a_job_that_died_is_listed_with_what_is_known(tmp_path: Path) -> None:

    (tmp_path / NOTES).mkdir()
    for number, (status, trained) in enumerate([("begun", False), ("trained", True)]):
        job = tmp_path / str(number)
        job.mkdir()
        write_run_summary(job, run_summary(best_validation_loss=1.5))
        note = {
            "folder": str(job),
            "overrides": [f"seed={number}"],
            "trained": trained,
            "status": status,
            "reason": "",
        }
        (tmp_path / NOTES / f"{number}.json").write_text(json.dumps(note))
    rows = {row["job"]: row for row in _rows(tmp_path, "validation_loss")}
    assert [rows[job]["status"] for job in "01"] == ["failed", "failed"]
    assert [rows[job]["validation_loss"] for job in "01"] == [None, 1.5]
    assert all("killed" in row["reason"] for row in rows.values())


def test_a_sweep_over_seeds_says_which_groups_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = write_sweep(tmp_path / "sweep")
    rows = [{"job": str(number), "status": "finished"} for number in range(6)]
    _compare_groups(made, rows, "exact_match")
    assert "optim.lr=0.0001 is better than optim.lr=0.001" in capsys.readouterr().out
    assert len(json.loads((made / "groups.json").read_text())["groups"]) == 2
    assert (made / "report.html").exists()

    # Jobs that failed have no part in it, and the others are compared.
    _compare_groups(made, [rows[0], rows[3], rows[5] | {"status": "failed"}], "exact_match")
    groups = json.loads((made / "groups.json").read_text())["groups"]
    assert [group["seeds"] for group in groups] == [[1], [1]]


def test_a_sweep_over_other_records_keeps_its_table_and_says_why_nothing_is_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = write_sweep(tmp_path / "sweep")
    path = made / "1" / "evaluation" / "records.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:30]))
    rows = [{"job": str(number), "status": "finished"} for number in range(6)]
    _compare_groups(made, rows, "exact_match")
    assert "were not asked the same records" in capsys.readouterr().out
    assert not (made / "groups.json").exists()
