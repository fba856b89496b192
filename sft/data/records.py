"""Records: `SHAPES` says how a dict from a file becomes a `Record`.

A shape is one entry of the table. `formats.py` reads the dicts.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from sft.data.formats import kind_of, read_values
from sft.errors import InputError

SURROGATE = re.compile("[\ud800-\udfff]")

# How many unused keys are counted. A file may have as many as it has records.
MOST_KEYS = 1000


Role = Literal["system", "user", "assistant"]


class Turn(NamedTuple):
    """What one side says in a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Record:
    """A conversation: the last question, what it is about (may be empty), and the answer wanted.

    Attributes:
        before: the turns before the last question, the system's included; empty for a single
            instruction.
    """

    instruction: str
    input: str
    output: str
    category: str | None = None
    before: tuple[Turn, ...] = ()

    def plain(self) -> dict[str, Any]:
        """Return the fields as plain values; each turn before has its role and content by name."""
        return asdict(self) | {"before": [turn._asdict() for turn in self.before]}

    @property
    def question(self) -> str:
        """The last question as one text: the instruction, then the input after an empty line."""
        return f"{self.instruction}\n\n{self.input}" if self.input else self.instruction

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The whole conversation."""
        return (*self.before, Turn("user", self.question), Turn("assistant", self.output))


def record_of(fields: dict[str, Any]) -> Record:
    """Return the record of what `Record.plain` gave."""
    return Record(**fields | {"before": tuple(Turn(**turn) for turn in fields["before"])})


KEYS = ("instruction", "input", "output", "category")


def _instruction_record(item: dict[str, Any], where: str) -> Record:
    """Read `{"instruction": ..., "input": ..., "output": ..., "category": ...}`."""
    category = item.get("category")
    return Record(
        instruction=_text(item, "instruction", where),
        input="" if item.get("input") is None else _text(item, "input", where),
        output=_text(item, "output", where),
        category=category if isinstance(category, str) else None,
    )


@dataclass(frozen=True)
class Shape:
    """One form that a record has in a file.

    Attributes:
        keys: the keys that are read. The others are counted, and reported as unused.
        required: the keys without which a dict does not have this shape.
        record: make the record of a dict with all required keys. Messages begin with the text
            given, the file and the record's number.
    """

    keys: tuple[str, ...]
    required: tuple[str, ...]
    record: Callable[[dict[str, Any], str], Record]


# To add a shape, add it here. A dict has the first shape whose required keys are all there.
SHAPES: dict[str, Shape] = {
    "instruction": Shape(KEYS, ("instruction", "output"), _instruction_record),
}


def shape_of(item: dict[str, Any]) -> Shape:
    """Return a dict's shape; of a dict without one, the instruction shape, whose keys it lacks."""
    for shape in SHAPES.values():
        if all(key in item for key in shape.required):
            return shape
    return SHAPES["instruction"]


def is_record(item: dict[str, Any]) -> bool:
    """Whether a dict is a record, if a faulty one, and not a document that holds the records."""
    return any(key in item for key in shape_of(item).required)


def stream_records(
    file: BinaryIO,
    name: Path | str,
    unused: Counter[str] | None = None,
    known: bool = False,
    lists: dict[str, int] | None = None,
) -> Iterator[Record]:
    """Yield the records of a file, one by one: a million of them need not be in memory.

    Args:
        name: what messages call the file.
        unused: takes the unused keys, and in how many records each is. It is complete once all
            records are taken.
        known: a run used the file already, so a misspelt key is counted and not refused.
        lists: as in `read_values`.

    Raises:
        InputError: the file has no known format, or a record no known shape. The message names
            line and column, or the record's number from 1.
    """
    items = read_values(file, name, is_record, lists)
    for number, item in enumerate(items, 1):
        try:
            record = checked_record(item, name, number, known)
        except InputError:
            # A fault in the rest of the file explains more than this record's, so it comes first.
            for _ in items:
                pass
            raise
        if unused is not None:
            count_unused(item, unused)
        yield record


def checked_record(item: Any, name: Path | str, number: int, known: bool = False) -> Record:
    """Return the record of a parsed value.

    Args:
        known: as in `stream_records`.

    Raises:
        InputError: the value is none. The message begins with `name` and the record's number.
    """
    where = f"{name}: record {number}"
    if not isinstance(item, dict):
        raise InputError(
            f"{where}: {kind_of(item)} instead of an object with instruction, input and output"
        )

    # A misspelt key would be lost in silence if the key it stands for is optional.
    shape = shape_of(item)
    for key in item:
        meant = resembled(str(key), shape.keys)
        if meant and meant not in item and not known:
            raise InputError(
                f"{where}: {key!r} is not read; rename it to '{meant}', or leave it out"
            )

    for key in shape.required:
        if key not in item:
            expected = " and ".join(shape.required)
            found = ", ".join(map(repr, list(item)[:5])) or "nothing"
            raise InputError(f"{where}: no '{key}', expected {expected}; found {found}")
    return shape.record(item, where)


def _text(item: dict[str, Any], key: str, where: str) -> str:
    """Return the text of a key, or raise InputError."""
    value = item[key]
    if not isinstance(value, str):
        raise InputError(f"{where}: '{key}' is {kind_of(value)}, expected text")
    if SURROGATE.search(value):
        raise InputError(
            f"{where}: '{key}' contains a lone surrogate, which is not valid Unicode; remove it"
        )
    return value


def count_unused(item: dict[Any, Any], unused: Counter[str]) -> None:
    """Count the keys of a record that are not read."""
    read = shape_of(item).keys
    for key in map(str, item):
        if key not in read and (key in unused or len(unused) < MOST_KEYS):
            unused[key] += 1


@lru_cache(1000)
def resembled(key: str, keys: tuple[str, ...]) -> str | None:
    """Return the one of `keys` that a key is but for case, blanks around it, or one letter.

    A key that is one of them resembles none.
    """
    if key in keys or len(key) >= 40:
        return None
    plain = key.strip(" \t\n\r\ufeff").casefold()
    for other in keys:
        if _one_letter_apart(plain, other):
            return other
    return None


def _one_letter_apart(first: str, second: str) -> bool:
    """Whether one letter added, removed or changed, or two neighbours swapped, makes them equal."""
    same = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        same += 1
    a = first[same:]
    b = second[same:]
    swapped = a[:2] == b[1::-1] and a[2:] == b[2:]
    return swapped or a[1:] == b[1:] or a[1:] == b or a == b[1:]
