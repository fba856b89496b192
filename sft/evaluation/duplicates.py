"""Records whose question is in another split too."""

from collections.abc import Iterable
from typing import NamedTuple

from sft.data.neighbours import compared_text, nearest
from sft.data.records import Record


class Duplicate(NamedTuple):
    """The nearest neighbour of a record's question in another split.

    Attributes:
        kind: `exact`: another record asks it word for word. `near`: another asks a similar one.
            None: neither.
        similarity: of the most similar question, from 0 to 1; None if none is near.
    """

    kind: str | None
    similarity: float | None


def duplicates(records: Iterable[Record], others: Iterable[Record]) -> list[Duplicate]:
    """Look for the question of each record among the others.

    Similar is what `sft.data.neighbours` calls near, the measure of all the data's own checks.
    """
    questions = [compared_text(record) for record in records]
    known = [compared_text(record) for record in others]
    exact = set(known)
    _, similarities = nearest(questions, known)

    found = []
    for text, similarity in zip(questions, similarities.tolist(), strict=True):
        if text in exact:
            found.append(Duplicate("exact", 1.0))
        elif similarity:
            found.append(Duplicate("near", round(similarity, 6)))
        else:
            found.append(Duplicate(None, None))
    return found
