"""Preferences from a run's own answers: what is drawn, ranked, written and used again."""

import json
from pathlib import Path
from typing import Any

import pytest

from sft.data.records import Record, Turn
from sft.evaluation.answers import Answer
from sft.evaluation.preferences import Ranked, scores_by_metric
from tests.fixtures.doors import call
from tests.fixtures.record import copy_of_made

RECORD = Record("Q", "I", "right")


def ranked(scores: list[float | None], record: Record = RECORD) -> Ranked:
    answers = [Answer(f"answer {number}", 3, "stop") for number in range(len(scores))]
    return Ranked(record, answers, scores)


@pytest.mark.parametrize(
    ("scores", "pair"),
    [
        ([0.1, 0.9, 0.5], ("answer 1", "answer 0")),
        ([0.5, None, 0.2], ("answer 0", "answer 2")),
        ([0.9, 0.9, 0.1, 0.1], ("answer 0", "answer 2")),
        ([0.5, 0.5], None),
        ([0.5, None], None),
        ([None, None], None),
    ],
)
def test_the_best_and_the_worst_answer_make_a_pair(
    scores: list[float | None], pair: tuple[str, str] | None
) -> None:
    assert ranked(scores).pair() == pair


def test_a_metric_compares_with_the_expected_answer() -> None:
    answers = [[Answer("right", 1, "stop"), Answer("wrong", 1, "stop")]]
    assert scores_by_metric([RECORD], answers, "exact_match") == [[1.0, 0.0]]


def test_a_conversation_keeps_the_turns_before_the_question() -> None:
    record = Record("Q", "", "right", before=(Turn("user", "Hi"), Turn("assistant", "Hello")))
    found = ranked([1.0, 0.0], record).as_preference()
    assert found is not None
    assert [message["content"] for message in found["prompt"]] == ["Hi", "Hello", "Q"]
    assert found["chosen"] == [{"role": "assistant", "content": "answer 0"}]


OPTIONS = ("run", "--samples", "3", "--temperature", "2", "--max-new-tokens", "6", "--limit", "4")


def test_answers_are_drawn_once_and_pairs_are_read_by_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy_of_made(tmp_path)
    call("sft/prefer.py", *OPTIONS, folder=tmp_path)
    folder = tmp_path / "run" / "preferences"
    kept = (folder / "answers.jsonl").read_bytes()
    assert len(kept.splitlines()) == 12
    records: list[Any] = list(map(json.loads, (folder / "preferences.jsonl").open()))
    assert 1 <= len(records) <= 4
    assert "4 records, 3 answers each" in capsys.readouterr().out
    for record in records:
        assert record.keys() == {"instruction", "input", "chosen", "rejected"}
        assert record["chosen"] != record["rejected"]

    # The answers are used again, and one more record takes three more.
    call("sft/prefer.py", *OPTIONS, "--limit", "5", folder=tmp_path)
    assert (folder / "answers.jsonl").read_bytes().startswith(kept)
    assert len((folder / "answers.jsonl").read_bytes().splitlines()) == 15


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--samples", "1"), "--samples: 1"),
        (("--temperature", "0"), "--temperature"),
        (("--temperature", "1e-6"), "generate.temperature"),
        (("--top-p", "2"), "generate.top_p"),
        (("--judge-model", "m"), "--judge"),
        (("--judge", "openai"), "judge.model"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    with pytest.raises(SystemExit, match=rf"^error: .*{words}"):
        call("sft/prefer.py", "run", *options, folder=tmp_path)
