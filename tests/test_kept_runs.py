"""A run folder and a checkpoint of an earlier version can still be read.

`tests/fixtures/record.py` says how they were made, and when they may be made again.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import sft
from sft.prompts import PROMPTS
from tests.fixtures.doors import call
from tests.fixtures.record import EVALUATED, GONE_ON, IDS, MADE, copy_of_made, numbers
from tests.fixtures.surface import keys

EXPECTED = json.loads((MADE / "expected.json").read_text(encoding="utf-8"))


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with `run/`, `checkpoint/` and `records.json`, as if they had been made there."""
    copy_of_made(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("folder", "name"),
    [("checkpoint", "checkpoint"), ("run", "model"), ("run/model", "model")],
)
def test_a_kept_checkpoint_gives_its_logits_and_answers(folder: str, name: str) -> None:
    found, expected = numbers(MADE / folder), EXPECTED[name]
    logits = torch.tensor(found["logits"])
    torch.testing.assert_close(logits, torch.tensor(expected["logits"]), atol=1e-5, rtol=0)
    assert logits.shape == (len(IDS), 300)
    for key in ("prompt", "greedy", "drawn"):
        assert found[key] == expected[key], key


def test_a_kept_run_is_evaluated_to_the_same_numbers(place: Path) -> None:
    before = read(place / "run" / "evaluation" / "summary.json")
    answers = place / "run" / "evaluation" / "answers.jsonl"
    kept_answers = answers.read_text(encoding="utf-8")
    answers.unlink()
    call("evaluate.py", *EVALUATED, "run=run", folder=place)

    after = read(place / "run" / "evaluation" / "summary.json")
    measures = ("loss", "perplexity", "exact_match", "token_f1", "rouge_l", "chrf")
    for name in ("tuned", "base"):
        expected = {measure: before[name][measure] for measure in measures}
        found = {measure: after[name][measure] for measure in measures}
        assert found == pytest.approx(expected, abs=1e-4), name
    assert set(keys(before)) <= set(keys(after))
    answered = answers.read_text(encoding="utf-8")
    assert sorted(answered.splitlines()) == sorted(kept_answers.splitlines())


def test_kept_answers_are_not_computed_again(place: Path) -> None:
    answers = place / "run" / "evaluation" / "answers.jsonl"
    lines = answers.read_text(encoding="utf-8").splitlines()
    marked = [json.loads(line) | {"text": "from before"} for line in lines]
    answers.write_text("".join(json.dumps(line) + "\n" for line in marked), encoding="utf-8")
    call("evaluate.py", *EVALUATED, "run=run", folder=place)
    rows = read(place / "run" / "evaluation" / "responses.json")
    assert [row["model_response"] for row in rows] == 3 * ["from before"]


def test_a_kept_run_goes_on_from_its_checkpoint(place: Path) -> None:
    call("train.py", *GONE_ON, "resume=run", folder=place)
    summary = read(place / "run" / "summary.json")
    assert summary["steps"] == 6
    for name, loss in EXPECTED["resumed"].items():
        assert summary["losses"][name] == pytest.approx(loss, abs=1e-4), name
    assert sft.load_pretrained(place / "run").prompt == EXPECTED["model"]["prompt"]

    # The template that the run names is kept, whatever data.prompt= is by default now.
    assert summary["config"]["data"]["prompt"] == "phi3"
    assert summary["template"] == PROMPTS["phi3"]
