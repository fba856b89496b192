"""A run's folder in a notebook."""

import json
import shutil
from pathlib import Path

import pytest

from sft import Run
from sft.atomic import write_json_lines
from sft.errors import InputError
from tests.fixtures.doors import ROOT

MADE = ROOT / "tests" / "fixtures" / "made"


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no finished run"):
        Run(tmp_path)


def test_an_answer_with_a_line_separator_is_one_record(tmp_path: Path) -> None:
    run = shutil.copytree(MADE / "run", tmp_path / "run")
    row = {"tuned": {"text": "one\u2028two"}}
    write_json_lines(run / "evaluation" / "records.jsonl", [row])
    assert Run(run).answers == [row]


def test_a_run_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(MADE / "run")
    assert run.summary.steps == run.losses[-1]["step"]
    assert f"{run.summary.steps} steps" in repr(run)
    records = (MADE / "run" / "evaluation" / "records.jsonl").read_text(encoding="utf-8")
    assert run.answers == [json.loads(line) for line in records.splitlines()]
    assert run.scores["records"] == len(run.answers)
    assert len(run.plot().axes) == 1

    # Without a folder it is the newest run, also where a file names it.
    (tmp_path / "outputs" / "one").mkdir(parents=True)
    for name in ("summary.json", "metrics.csv"):
        shutil.copy(MADE / "run" / name, tmp_path / "outputs" / "one")
    (tmp_path / "outputs" / "latest").write_text("one\n")
    monkeypatch.chdir(tmp_path)
    newest = Run()
    assert (newest.summary, newest.answers, newest.scores) == (run.summary, [], {})
