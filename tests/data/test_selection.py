"""Which training records are used: counted by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from sft.config.schema import DataConfig
from sft.data import sources
from sft.data.records import Record
from sft.data.selection import is_empty
from sft.data.sources import load_source
from sft.data.splits import part_rows

OUTPUTS = ["aaa", " ", "a", "N/A", "aaaa", "<noinput>", "aa", "aaa", "", "no", "a", ""]


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = tmp_path / "mine.json"
    items = [{"instruction": str(i), "output": output} for i, output in enumerate(OUTPUTS)]
    path.write_text(json.dumps(items))
    return str(path)


def rows(path: str, **settings: Any) -> tuple[list[int], list[str]]:
    """Return the training rows and the notes. The last two records are the test and validation."""
    notes: list[str] = []
    data = DataConfig("json", path, split=[10 / 12, 1 / 12, 1 / 12], **settings)
    parts = part_rows(load_source(data), data, notes)
    assert parts["test"].tolist() == [10]
    assert parts["validation"].tolist() == [11]
    return parts["train"].tolist(), notes[1:]


@pytest.mark.parametrize(
    ("output", "empty"),
    [("", True), (" \n", True), ("n/a", True), ("<NoInput>\n", True), ("<nooutput>", True)]
    + [("no", False), ("N/A.", False), ("none", False), ("0", False)],
)
def test_an_answer_that_says_nothing(output: str, empty: bool) -> None:
    assert is_empty(Record("a", "<noinput>", output)) is empty


def test_all_training_records_are_used_unasked(path: str) -> None:
    assert rows(path) == (list(range(10)), [])


@pytest.mark.parametrize("small", [0, 1 << 20])
def test_empty_answers_are_dropped_from_train_alone(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    monkeypatch.setenv("SFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "SMALL", small)
    for _ in range(2):
        found, [note] = rows(path, drop_empty=True)
        assert found == [0, 2, 4, 6, 7, 9]
        assert "4 training records" in note


def test_the_longest_answers_are_kept_the_first_of_equal_ones(path: str) -> None:
    assert rows(path, keep=0.2, keep_by="longest")[0] == [4, 5]
    found, notes = rows(path, keep=0.5, keep_by="longest", drop_empty=True)
    assert found == [0, 4, 7]
    assert len(notes) == 2
    assert "3 of 6" in notes[1]
    assert rows(path, keep=0.01, keep_by="longest")[0] == [5]


def test_a_random_share_is_drawn_by_the_seed_of_the_split(path: str) -> None:
    found, _ = rows(path, keep=0.5)
    assert len(found) == 5
    assert found == sorted(found) == rows(path, keep=0.5)[0]
    assert len({tuple(rows(path, keep=0.5, split_seed=seed)[0]) for seed in range(6)}) > 3
