"""A person's labels beside a judge's scores: the file, and what is said of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from sft.dataclass_json import from_json
from sft.errors import InputError
from sft.evaluation.labels import Label, beside_labels, read_labels
from sft.evaluation.run import with_labels
from sft.scoring.results import RecordResult


def row(number: int, score: float | None) -> RecordResult:
    answer: dict[str, Any] = {"text": f"answer {number}", "tokens": 2, "finish_reason": "stop"}
    answer |= {"loss": 1.0, "loss_tokens": 2, "status": "scored", "score": score}
    plain = {"record": number, "duplicate": None, "instruction": "i", "input": "", "output": "o"}
    found: RecordResult = from_json(
        RecordResult, plain | {"category": None, "tuned": answer, "base": None}
    )
    return found


# A judge that gives each answer 20 points more than a person does.
SCORES = [float(20 + number * 37 % 80) for number in range(1, 101)]
ROWS = [row(number, score) for number, score in enumerate(SCORES, 1)]


def labels(count: int) -> list[Label]:
    """Return a person's labels of the first answers."""
    return [
        Label(number, "tuned", f"answer {number}", SCORES[number - 1] - 20)
        for number in range(1, count + 1)
    ]


def test_thirty_labels_correct_the_judge() -> None:
    found = beside_labels(ROWS, labels(30))
    tuned = found.models["tuned"]
    assert (tuned.labels, tuned.missing, found.left_out) == (30, 0, 0)
    assert tuned.correlation == pytest.approx(1)
    assert tuned.corrected is not None
    truth = sum(SCORES) / 100 - 20
    assert tuned.judge == pytest.approx(truth + 20)
    assert tuned.corrected.mean == pytest.approx(truth, abs=2)
    assert tuned.corrected.interval[0] < truth < tuned.corrected.interval[1]
    assert f"is {tuned.corrected.mean:.1f} (95% interval" in found.text[0]


def test_fewer_say_how_many_are_missing() -> None:
    found = beside_labels(ROWS, labels(12))
    assert found.models["tuned"].corrected is None
    assert "With 18 more labels" in found.text[0]


def test_labels_of_other_answers_do_not_count() -> None:
    """An answer that has changed, one without a score, a model that is not there."""
    rows = [*ROWS[:-1], row(100, None)]
    others = [
        Label(1, "tuned", "another answer", 50),
        Label(100, "tuned", "answer 100", 50),
        Label(2, "base", "answer 2", 50),
        Label(500, "tuned", "answer 500", 50),
    ]
    found = beside_labels(rows, [*labels(3), *others])
    assert (found.models["tuned"].labels, found.left_out) == (3, 4)
    assert set(found.models) == {"tuned"}
    assert found.text[-1].startswith("4 labels left out")


GOOD = {"record": 1, "model": "tuned", "answer": "a", "score": 0}


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"labels": 3},
        {"labels": [{"record": 1}]},
        {"labels": [GOOD | {"score": 101}]},
        {"labels": [GOOD | {"score": True}]},
        {"labels": [GOOD | {"model": "mine"}]},
        {"labels": [GOOD | {"record": "1"}]},
    ],
)
def test_another_file_is_refused_in_one_line(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"labels: .*labels\.json: not labels") as error:
        read_labels(path)
    assert "\n" not in str(error.value)
    path.write_text(json.dumps({"labels": [GOOD]}))
    assert read_labels(path) == [Label(1, "tuned", "a", 0)]


def test_without_a_judge_the_kept_labels_are_mentioned(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level("INFO", logger="sft")
    assert with_labels(None, ROWS, labels(1), tmp_path) is None
    assert str(tmp_path / "labels.json") in caplog.text
