"""The files of an evaluation are read as they were written, with the keys they always had."""

import json
from pathlib import Path
from typing import Any

import pytest

from sft.dataclass_json import from_json, to_json
from sft.errors import InputError
from sft.metrics import TEXT_METRICS
from sft.scoring.results import (
    AnswerResult,
    EvaluationSummary,
    RecordResult,
    read_records,
    read_summary,
    write_results,
)
from tests.fixtures.record import MADE

FOLDER = MADE / "run" / "evaluation"
EARLIER = ("exact_match", "token_f1", "rouge_l", "chrf")
ANSWER = AnswerResult("a", 1, "stop", dict.fromkeys(TEXT_METRICS, 0.5), 1.25, 2, "scored", 80, "x")
RECORD = RecordResult(1, None, "Say", "", "a\u2028b", None, ANSWER, None)


def lines_of(path: Path) -> list[Any]:
    """The file's JSON values as lists of pairs, so that the order of the keys counts."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    return [json.loads(line, object_pairs_hook=list) for line in lines]


def without(keys: set[str], value: Any) -> Any:
    """The value of `lines_of` without some keys."""
    if not isinstance(value, list):
        return value
    kept = []
    for item in value:
        if isinstance(item, tuple):
            if item[0] not in keys:
                kept.append((item[0], without(keys, item[1])))
        else:
            kept.append(without(keys, item))
    return kept


def made_summary() -> Any:
    return json.loads((FOLDER / "summary.json").read_text(encoding="utf-8"))


def test_results_of_an_earlier_version_are_read_and_written_alike(tmp_path: Path) -> None:
    write_results(tmp_path, read_records(FOLDER), read_summary(FOLDER))
    for name in ("records.jsonl", "summary.json"):
        before = lines_of(FOLDER / name)
        after = lines_of(tmp_path / name)
        # The earlier version did not count the records that were not asked, had no loops, close
        # neighbours, conversations, means by turns or winners of pairs, and no metric that was
        # added since.
        added = {
            "not_asked",
            "loops",
            "similarity",
            "preferred",
            "before",
            "visible",
            "close",
            "without_close",
            "exact_match_by_turns",
            *set(TEXT_METRICS).difference(EARLIER),
        }
        assert [without(added, line) for line in after] == before


def test_metrics_are_keys_of_an_answer() -> None:
    found = to_json(RECORD)
    assert list(found["tuned"]) == [
        "text",
        "tokens",
        "finish_reason",
        *TEXT_METRICS,
        "loss",
        "loss_tokens",
        "status",
        "score",
        "reason",
    ]
    assert found["base"] is None
    assert from_json(RecordResult, found) == RECORD


def test_an_unknown_key_is_ignored_and_a_missing_metric_is_none() -> None:
    content = to_json(RECORD) | {"new": 1}
    del content["tuned"]["chrf"]
    found = from_json(RecordResult, content)
    assert found.tuned.value("chrf") is None
    assert found.tuned.value("loss") == 1.25
    assert found.tuned.value("score") == 80


def test_the_mean_of_each_metric_is_found() -> None:
    found = read_summary(FOLDER)
    assert list(found.models) == ["base", "tuned"]
    assert found.tuned.mean("exact_match") == 1
    assert found.tuned.mean("loss") == found.tuned.loss
    assert found.tuned.mean("score") is found.tuned.interval("score") is None
    judged = made_summary()
    judged["tuned"]["judge"] = {
        "mean": 50.0,
        "median": 50.0,
        "max": 90,
        "min": 10,
        "interval": [40.0, 60.0],
        "scored": 3,
        "of": 3,
        "status": {"scored": 3},
    }
    tuned = from_json(EvaluationSummary, judged).tuned
    assert (tuned.mean("score"), tuned.interval("score")) == (50, [40, 60])


@pytest.mark.parametrize("key", ["record", "instruction", "tuned", "base"])
def test_a_missing_key_of_a_record_is_named(key: str, tmp_path: Path) -> None:
    content = to_json(RECORD)
    del content[key]
    (tmp_path / "records.jsonl").write_text(json.dumps(content) + "\n")
    with pytest.raises(InputError, match=rf"records\.jsonl: .*{key}: missing"):
        read_records(tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "expected the summary of an evaluation, found list"),
        ("null", "expected the summary of an evaluation, found NoneType"),
        ("{}", "not an evaluation .*split: missing"),
        ('{"tuned": 1}', "not an evaluation .*split: missing"),
    ],
)
def test_a_summary_of_something_else_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(InputError, match=rf"summary\.json: {reason}"):
        read_summary(tmp_path)


@pytest.mark.parametrize("line", ["{", "[]", "[" * 100_000])
def test_a_line_that_is_not_the_result_of_a_record_is_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match=r"records\.jsonl: not an evaluation"):
        read_records(tmp_path)


def test_a_model_that_is_not_an_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(made_summary() | {"tuned": 3}))
    with pytest.raises(InputError, match=r"expected an object, found 3"):
        read_summary(tmp_path)
