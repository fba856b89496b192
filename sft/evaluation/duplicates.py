"""Records whose question is in another split too."""

import unicodedata
from collections.abc import Iterable

from sft.data.records import Record


def duplicates(records: Iterable[Record], others: Iterable[Record]) -> list[str | None]:
    """Return for each record whether one of the others asks the same question.

    `exact`: the same text. `near`: the same but for case, punctuation, spaces and the Unicode form
    of accents. None: neither.
    """
    others = list(others)
    exact = set(map(_question, others))
    near = set(map(_plain, others))

    found: list[str | None] = []
    for record in records:
        if _question(record) in exact:
            found.append("exact")
        elif _plain(record) in near:
            found.append("near")
        else:
            found.append(None)
    return found


def _question(record: Record) -> tuple[str, ...]:
    """Return the texts of a question and of the turns before it, all of which must be the same."""
    return (*(turn.content for turn in record.before), record.instruction, record.input)


def _plain(record: Record) -> tuple[str, ...]:
    return tuple(
        "".join(filter(_counts, unicodedata.normalize("NFC", text).casefold()))
        for text in _question(record)
    )


def _counts(character: str) -> bool:
    """Return whether it is not punctuation, a separator, or a control character."""
    return unicodedata.category(character)[0] not in "PZC"
