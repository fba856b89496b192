"""The data in numbers, counted by hand."""

from pathlib import Path

import pytest
import tiktoken

from sft.data.overview import example_text, overview, overview_text, unused_text
from sft.data.records import Record
from sft.data.splits import Split, encode_splits

KEYS = ["instruction", "input", "output"]
TEMPLATE = "{{ instruction }}{% if input %}/{{ input }}{% endif %}:"


@pytest.fixture
def splits(letters: tiktoken.Encoding) -> dict[str, Split]:
    """Three splits with few tokens.

    - train: ab:xyz has 6 tokens. ab/c:xyz has 8, and is cut to 7 and a target. ab:q has 4, and
      the prompt of the first. The prompt of 9 is dropped.
    - test: ab/c:no has 7 tokens, and its prompt is in train. ba:n has 4.
    """
    parts = {
        "train": [
            Record("ab", "", "xyz"),
            Record("ab", "c", "xyz"),
            Record("ab", "", "q"),
            Record("abcdefgh", "", "x"),
        ],
        "test": [
            Record("ab", "c", "no"),
            Record("ba", "", "n"),
        ],
        "validation": [],
    }
    return encode_splits(parts, TEMPLATE, letters, max_length=7, context=16, mask_prompt=True)


def test_the_overview_counted_by_hand(splits: dict[str, Split]) -> None:
    names = (
        "records",
        "tokens",
        "targets",
        "longest",
        "cut",
        "dropped",
        "duplicates",
        "empty",
        "split",
    )
    expected = {
        "train": (4, 6 + 7 + 4, 4 + 3 + 2, 7, 1, 1, 1, 0, 0),
        "test": (2, 7 + 4, 3 + 2, 7, 0, 0, 1, 0, 0),
        "validation": (0, 0, 0, 0, 0, 0, 0, 0, 0),
    }
    assert overview(splits) == {
        name: dict(zip(names, row, strict=True)) for name, row in expected.items()
    }


def test_the_table_explains_cut_rows_and_duplicates(splits: dict[str, Split]) -> None:
    lines = overview_text(overview(splits)).splitlines()
    assert lines[0].split() == [
        "data",
        "records",
        "tokens",
        "targets",
        "longest",
        "cut",
        "dropped",
        "duplicates",
    ]
    assert lines[1].split() == ["train", "4", "17", "9", "7", "1", "1", "1"]
    assert lines[4].startswith("cut: longer than data.max_length")
    assert lines[5].startswith("duplicates: ")
    assert len(lines) == 6


def test_empty_answers_are_a_column_where_there_are_some(letters: tiktoken.Encoding) -> None:
    parts = {
        "train": [Record("a", "", "N/A"), Record("b", "", " "), Record("c", "", "d")],
        "test": [],
        "validation": [],
    }
    lines = overview_text(
        overview(encode_splits(parts, TEMPLATE, letters, None, 16, False))
    ).splitlines()
    assert lines[0].split()[-1] == "empty"
    assert lines[1].split()[-1] == "2"
    assert "data.drop_empty=true" in lines[4]


def test_a_table_without_cut_rows_has_no_notes(letters: tiktoken.Encoding) -> None:
    parts = {
        "train": [Record(str(i), "", "x" * i or "y") for i in range(1000)],
        "test": [],
        "validation": [],
    }
    lines = overview_text(
        overview(encode_splits(parts, TEMPLATE, letters, None, 2000, False))
    ).splitlines()
    assert lines[1].split()[:3] == ["train", "1,000", f"{10 * 2 + 90 * 3 + 900 * 4 + 499_501:,}"]
    assert len(lines) == 4


def test_an_example_with_its_learned_part_marked(
    splits: dict[str, Split], letters: tiktoken.Encoding
) -> None:
    assert example_text(splits["train"], letters) == "ab:⟦xyz<|endoftext|>⟧"
    parts = {"train": [Record("añb", "", "é")]}
    [unmasked] = encode_splits(parts, TEMPLATE, letters, None, 16, mask_prompt=False).values()
    assert example_text(unmasked, letters) == "⟦añb:é<|endoftext|>⟧"
    [plain] = encode_splits(parts, "", letters, None, 16, mask_prompt=True).values()
    assert example_text(plain, letters) == "⟦é<|endoftext|>⟧"


def test_unused_keys_are_named_with_their_counts() -> None:
    assert unused_text("mine.json", {}, []) is None
    line = unused_text(Path("mine.json"), {"context": 4000, "\ud800" * 99: 2}, KEYS)
    assert line is not None
    assert line.startswith("mine.json: not read: 'context' (to read it: \"data.fields=")
    assert 'input: context}") in 4,000, ' in line

    # Half of a surrogate pair is written as an escape, or this would raise.
    assert line.encode()
    assert len(line) < 500


def test_of_many_unused_keys_the_rest_are_counted() -> None:
    line = unused_text("mine.json", {str(key): 1 for key in range(500)} | {"Input": 1}, KEYS)
    assert line is not None
    assert "not read: 'Input' (like 'input') in 1, '0' in 1," in line
    assert "'6' in 1 of its records and 493 other keys;" in line
