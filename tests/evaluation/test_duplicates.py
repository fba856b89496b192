import pytest

from sft.data.records import Record
from sft.evaluation.duplicates import duplicates

TRAINING = [
    Record("What is the sum of 3 and 4?", "", "7"),
    Record("Spell it.", "Cat", "c-a-t"),
    Record("?!", "", ""),
]


@pytest.mark.parametrize(
    ("instruction", "asked", "kind", "similarity"),
    [
        ("What is the sum of 3 and 4?", "", "exact", 1.0),
        ("what is  the SUM of 3 and 4", "", "near", 1.0),
        # 25 trigrams each: "3 a" with its neighbours are three that the other lacks.
        ("What is the sum of 5 and 4?", "", "near", 21 / 27),
        ("Name a colour.", "", None, None),
        ("Spell it.", "Cat", "exact", 1.0),
        ("Spell it", "cat.", "near", 1.0),
        ("Spell it.", "", None, None),
        ("?!", "", "exact", 1.0),
        ("!?", "", None, None),
    ],
)
def test_what_training_has_seen(
    instruction: str, asked: str, kind: str | None, similarity: float | None
) -> None:
    [found] = duplicates([Record(instruction, asked, "another answer")], TRAINING)
    assert found.kind == kind
    assert found.similarity == (pytest.approx(similarity, abs=1e-6) if similarity else None)


def test_nothing_to_train_on() -> None:
    assert [found.kind for found in duplicates(TRAINING, [])] == [None, None, None]
