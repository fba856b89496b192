"""Preferences: their shapes in files, and the rows of chosen and rejected answers by hand."""

from typing import Any

import numpy as np
import pytest
import tiktoken

from sft.data.batches import encode
from sft.data.pairs import as_pairs, check_pair
from sft.data.records import Reader, Record, Turn
from sft.errors import InputError

TEMPLATE = "{{ instruction }}:"
END, NO = 256, -100


def pairs(letters: tiktoken.Encoding, records: list[tuple[str, str, str]], max_length: int = 100):
    chosen = [Record(question, "", answer) for question, answer, _ in records]
    rejected = [Record(question, "", answer) for question, _, answer in records]
    return as_pairs(
        encode(chosen, TEMPLATE, letters, max_length, True),
        encode(rejected, TEMPLATE, letters, max_length, True),
    )


def test_chosen_rows_come_first_and_only_answers_have_labels(letters: tiktoken.Encoding) -> None:
    found = pairs(letters, [("a", "xy", "z"), ("b", "p", "q")])
    assert len(found) == 2
    batch = found.batch([1, 0])
    assert batch.input_ids.tolist() == [
        [98, 58, 112, END],
        [97, 58, 120, 121],
        [98, 58, 113, END],
        [97, 58, 122, END],
    ]
    assert batch.labels.tolist() == [
        [NO, 112, END, NO],
        [NO, 120, 121, END],
        [NO, 113, END, NO],
        [NO, 122, END, NO],
    ]
    assert batch.lengths.tolist() == [3, 4, 3, 3]
    assert batch.records.tolist() == [1, 0, 1, 0]
    assert found.lengths().tolist() == [7, 6]
    assert found.targets().tolist() == [1, 1]
    assert found.labels_of_rows().tolist() == [3, 2, 2, 2]


def test_a_pair_that_loses_an_answer_to_the_limit_is_dropped(letters: tiktoken.Encoding) -> None:
    found = pairs(letters, [("aaaaaa", "x", "y"), ("b", "p", "q")], max_length=4)
    assert (len(found), found.dropped) == (1, 1)
    assert found.batch([0]).records.tolist() == [1, 1]


def test_the_reference_goes_with_its_rows(letters: tiktoken.Encoding) -> None:
    found = pairs(letters, [("a", "x", "y"), ("b", "p", "q"), ("c", "s", "t")])
    object.__setattr__(found, "reference", np.arange(6, dtype=np.float32))
    reference = found.batch([2, 0]).reference
    assert reference is not None
    assert reference.tolist() == [2, 0, 5, 3]
    assert found.batch([]).reference is None


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


ASKED = [message("user", "Hi"), message("assistant", "Hello"), message("user", "Q")]
BEFORE = (Turn("user", "Hi"), Turn("assistant", "Hello"))


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (
            {"instruction": "Q", "input": "I", "chosen": "a", "rejected": "b", "category": "k"},
            Record("Q", "I", "a", "k", (), "b"),
        ),
        ({"prompt": "Q", "chosen": "a", "rejected": "b"}, Record("Q", "", "a", rejected="b")),
        (
            {
                "prompt": ASKED,
                "chosen": [message("assistant", "a")],
                "rejected": [message("assistant", "b")],
            },
            Record("Q", "", "a", None, BEFORE, "b"),
        ),
        (
            {
                "chosen": [*ASKED, message("assistant", "a")],
                "rejected": [*ASKED, message("assistant", "b")],
            },
            Record("Q", "", "a", None, BEFORE, "b"),
        ),
        (
            {
                "prompt": "Q",
                "chosen": [message("assistant", "a")],
                "rejected": [message("assistant", "b")],
            },
            Record("Q", "", "a", rejected="b"),
        ),
    ],
)
def test_each_shape_of_a_preference_is_read(item: dict[str, Any], expected: Record) -> None:
    assert Reader("f.json").read(item, 1)[0] == expected


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"chosen": "a", "rejected": "b"}, "no 'instruction' or 'prompt'"),
        ({"instruction": "Q", "chosen": "a", "rejected": True}, "'rejected' is"),
        (
            {"prompt": "Q", "chosen": [message("assistant", "a")], "rejected": "b"},
            "'rejected'",
        ),
        (
            {
                "chosen": [message("user", "Q"), message("assistant", "a")],
                "rejected": [message("user", "other"), message("assistant", "b")],
            },
            "differ before",
        ),
        ({"chosen": [message("user", "Q")], "rejected": []}, "'chosen'"),
        ({"chosen": [message("tool", "Q")], "rejected": []}, "'tool'"),
    ],
)
def test_a_faulty_preference_is_refused_by_its_key(item: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=rf"^f\.json: record 7: .*{words}"):
        Reader("f.json").read(item, 7)[0]


@pytest.mark.parametrize(("rejected", "words"), [(None, "no 'rejected'"), ("a", "the same text")])
def test_a_record_without_two_answers_is_refused(rejected: str | None, words: str) -> None:
    with pytest.raises(InputError, match=rf"^here: .*{words}"):
        check_pair(Record("Q", "", "a", rejected=rejected), "here")
