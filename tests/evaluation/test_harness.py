"""The task for lm-evaluation-harness. `make test-lm-eval` has the harness itself read it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sft.errors import InputError
from sft.evaluation.harness import write_task
from tests.fixtures.doors import call
from tests.fixtures.record import MADE


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    """A run with its evaluation: three records, all answered exactly."""
    shutil.copytree(MADE / "run", tmp_path / "run")
    return tmp_path / "run"


def rewrite(run: Path, change: Callable[[int, dict[str, Any]], None]) -> None:
    """Change each record of the evaluation on the disk."""
    path = run / "evaluation" / "records.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for number, row in enumerate(rows, 1):
        change(number, row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_task_holds_the_prompts_in_the_models_template(
    evaluated: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    call("sft/export.py", str(evaluated), "--format", "lm-eval", folder=tmp_path)
    printed = capsys.readouterr().out
    task = yaml.safe_load((evaluated / "lm-eval" / "sft_run.yaml").read_text())
    lines = Path(task["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines()
    records = [json.loads(line) for line in lines]

    assert len(records) == 3
    assert records[1] == {
        "record": 2,
        "prompt": "<|user|>\nPut it in the past tense.\nShe walks home.\n<|assistant|>\n",
        "expected": "She walked home.",
    }
    assert task["generation_kwargs"] == {
        "until": ["<|endoftext|>"],
        "do_sample": False,
        "max_gen_toks": 30,
    }
    assert "3 records, of which evaluate.py found 1.0000 answered exactly" in printed
    assert f"--tasks {task['task']}" in printed


def test_records_that_were_not_asked_are_left_out_and_the_others_counted(evaluated: Path) -> None:
    def change(number: int, row: dict[str, Any]) -> None:
        text, exact = {1: (None, None), 2: ("she walked  HOME", 1.0), 3: ("in to", 0.0)}[number]
        row["output"] = "into" if number == 3 else row["output"]
        row["tuned"] |= {"text": text, "exact_match": exact}

    rewrite(evaluated, change)
    task = write_task(str(evaluated), None)
    assert task.records == 2
    assert task.exact_match == pytest.approx(1 / 2)

    # Only blanks within a text are counted otherwise. Case and a full stop make no difference.
    assert task.counted_otherwise == [3]


def test_an_answer_and_the_longest_prompt_fit_the_context(evaluated: Path) -> None:
    def change(number: int, row: dict[str, Any]) -> None:
        row["output"] = "a long answer " * 20 if number == 2 else row["output"]

    rewrite(evaluated, change)
    task = write_task(str(evaluated), None)
    assert task.cut == 1


@pytest.mark.parametrize(
    ("key", "value"), [("temperature", 0.7), ("no_repeat_ngram", 3), ("repetition_penalty", 1.2)]
)
def test_answers_that_the_harness_would_not_give_are_refused(
    evaluated: Path, key: str, value: float
) -> None:
    path = evaluated / "evaluation" / "summary.json"
    summary = json.loads(path.read_text())
    summary["decoding"][key] = value
    path.write_text(json.dumps(summary))
    with pytest.raises(InputError, match=f"^RUN: .*generate.{key}={value}"):
        write_task(str(evaluated), None)
    assert not (evaluated / "lm-eval").exists()


def test_other_weights_than_the_evaluated_ones_are_refused(
    evaluated: Path, make_checkpoint: Callable[..., Path]
) -> None:
    make_checkpoint(evaluated / "model", seed=9)
    with pytest.raises(InputError, match="other weights than those that were evaluated"):
        write_task(str(evaluated), None)


@pytest.mark.parametrize("option", [["--dtype", "f16"], ["--push", "you/it"]])
def test_options_of_models_are_refused_for_a_task(
    tmp_path: Path, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=f"error: {option[0]}: a task has none"):
        call("sft/export.py", "run", "--format", "lm-eval", *option, folder=tmp_path)
