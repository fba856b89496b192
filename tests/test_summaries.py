"""A run's `summary.json`: what is written is read back, and what is none is refused by key."""

import json
from pathlib import Path
from typing import Any

import pytest

from sft.dataclass_json import from_json
from sft.errors import InputError
from sft.summaries import (
    CheckpointUsed,
    DataUsed,
    LossChange,
    RunSummary,
    read_run_summary,
    write_run_summary,
)
from tests.summaries import CONTENT, run_summary


def test_a_summary_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_run_summary(tmp_path, run_summary())
    assert read_run_summary(tmp_path) == run_summary()
    assert json.loads((tmp_path / "summary.json").read_text()) == CONTENT | {"template": None}


def test_nested_parts_have_their_types() -> None:
    found = run_summary()
    assert found.losses["val/loss"] == LossChange(2.2, None)
    assert found.checkpoint == CheckpointUsed("openai-community/gpt2", "607a30d7", "cd" * 32)
    assert isinstance(found.data, DataUsed)
    assert found.data.splits["test"]["records"] == 110


def test_a_number_that_is_not_finite_is_null(tmp_path: Path) -> None:
    broken = {"train/loss": {"first": 2.0, "last": float("nan")}}
    write_run_summary(tmp_path, run_summary(losses=broken))
    assert read_run_summary(tmp_path).losses == {"train/loss": LossChange(2.0, None)}


def test_a_key_of_a_later_version_is_passed_over() -> None:
    data = CONTENT["data"] | {"licence": "mine"}
    assert from_json(RunSummary, CONTENT | {"later": 1, "data": data}) == run_summary()


@pytest.mark.parametrize("key", CONTENT)
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    content = {name: value for name, value in CONTENT.items() if name != key}
    (tmp_path / "summary.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"summary\.json: .*\({key}: missing\)"):
        read_run_summary(tmp_path)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"data": {"path": "a", "splits": {}}}, "sha256"),
        ({"checkpoint": {"source": "a", "sha256": "b"}}, "revision"),
        ({"losses": {"val/loss": {"first": 1.0}}}, "last"),
    ],
)
def test_a_missing_nested_key_is_named(tmp_path: Path, content: dict[str, Any], named: str) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(CONTENT | content))
    with pytest.raises(InputError, match=rf"{named}: missing"):
        read_run_summary(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '"x"', json.dumps(CONTENT | {"losses": [1], "data": 3})]
)
def test_another_file_of_this_name_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(InputError, match=r"^[^:]*summary\.json: "):
        read_run_summary(tmp_path)


def test_a_missing_summary_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"summary\.json"):
        read_run_summary(tmp_path)
