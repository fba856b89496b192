import pytest

from sft.data.records import Record, Turn
from sft.evaluation.duplicates import duplicates

TRAINING = [
    Record("What is 3 + 4?", "", "7"),
    Record("Spell it.", "Cat", "c-a-t"),
    Record("Straße", "", ""),
]


@pytest.mark.parametrize(
    ("instruction", "asked", "expected"),
    [
        ("What is 3 + 4?", "", "exact"),
        ("what is 3+4", "", "near"),
        ("  What\tis 3 + 4 ?!", "", "near"),
        ("What is 3 - 4?", "", None),  # + is no punctuation
        ("Spell it.", "Cat", "exact"),
        ("Spell it", "cat.", "near"),
        ("Spell it.", "", None),
        ("Spell it.Cat", "", None),
        ("STRASSE", "", "near"),
    ],
)
def test_what_training_has_seen(instruction: str, asked: str, expected: str | None) -> None:
    assert duplicates([Record(instruction, asked, "another answer")], TRAINING) == [expected]


def test_nothing_to_train_on() -> None:
    assert duplicates(TRAINING, []) == [None, None, None]


def test_the_form_of_an_accent_makes_no_other_question() -> None:
    assert duplicates([Record("Say cafe\u0301", "", "x")], [Record("Say café", "", "y")]) == [
        "near"
    ]


def test_the_same_question_after_other_turns_is_another() -> None:
    box = (Turn("user", "What is the plural of box?"), Turn("assistant", "boxes"))
    cat = (Turn("user", "What is the plural of cat?"), Turn("assistant", "cats"))
    training = [Record("And of fox?", "", "foxes", before=box)]
    asked = [Record("And of fox", "", "x", before=before) for before in (box, cat, ())]
    assert duplicates(asked, training) == ["near", None, None]
