"""Records whose question stands in another split too."""

import unicodedata
from collections.abc import Iterable

from sft.data.records import Record


def duplicates(records: Iterable[Record], others: Iterable[Record]) -> list[str | None]:
    """For each record whether one of the others asks the same: `exact`, `near` (equal but for case, punctuation,
    spaces and the form of an accent), or None."""
    others = list(others)
    exact, near = set(map(_question, others)), set(map(_plain, others))
    return [
        "exact" if _question(record) in exact else "near" if _plain(record) in near else None
        for record in records
    ]


def _question(record: Record) -> tuple[str, str]:
    return record.instruction, record.input


def _plain(record: Record) -> tuple[str, ...]:
    return tuple(
        "".join(filter(_counts, unicodedata.normalize("NFC", text).casefold()))
        for text in _question(record)
    )


def _counts(character: str) -> bool:
    return (
        unicodedata.category(character)[0] not in "PZC"
    )  # punctuation, separators, control characters
