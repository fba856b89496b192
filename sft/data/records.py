"""Records, and the JSON that they are read from."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from sft.data.formats import binary_format, looks_like
from sft.errors import InputError

SURROGATE = re.compile("[\ud800-\udfff]")
SPACE = re.compile(r"[ \t\n\r]*")
WINDOW = 1 << 20  # characters of a file that are in memory at once


@dataclass(frozen=True, slots=True)
class Record:
    """One instruction, what it is about (may be empty), and the answer wanted."""

    instruction: str
    input: str
    output: str
    category: str | None = None


KEYS = tuple(field.name for field in fields(Record))
MOST_KEYS = 1000  # that are not read and are counted; a file may have as many as it has records


def stream_records(
    file: BinaryIO, path: Path | str, unused: Counter[str] | None = None, known: bool = False
) -> Iterator[Record]:
    """The records that `parse_records` gives, one by one: a million of them, and their text, need not be in memory.

    Where this reading does not get on, `parse_records` takes over: it knows all forms, and what to say of the others.

    Args:
        unused: takes the keys that are not read, and in how many records they are; whole once all records are taken.
        known: the file was used before, so a key like one that is absent is not refused.
    """
    unused = Counter() if unused is None else unused
    text, number = TextIOWrapper(file, "utf-8-sig", newline="\n"), 0
    try:
        for item in _items(text):
            record = checked_record(item, path, number + 1, known)
            count_unused(item, unused)
            yield record
            number += 1
        if not number:
            raise ValueError
    except (ValueError, RecursionError, InputError):
        file.seek(0)
        unused.clear()  # all records are read again
        yield from islice(parse_records(file.read(), path, unused, known), number, None)
    finally:
        text.detach()  # or it would close the file


def _items(text: TextIOWrapper) -> Iterator[Any]:
    """What an array, or JSON Lines, holds.

    Raises:
        ValueError: it is neither.
    """
    window = text.read(WINDOW)
    at = _skip(window, 0)
    if window[at : at + 1] == "[":
        yield from _array_items(window[at + 1 :], text)
    else:
        text.seek(0)
        yield from (
            json.loads(line, parse_constant=_refuse, parse_int=float)
            for line in text
            if line.strip()
        )


def _array_items(window: str, text: TextIOWrapper) -> Iterator[Any]:
    decoder, at, mark = json.JSONDecoder(parse_constant=_refuse, parse_int=float), 0, ","
    while mark == ",":
        try:
            item, end = decoder.raw_decode(window, _skip(window, at))
            end = _skip(window, end)
            mark = window[end]
        except (
            ValueError,
            IndexError,
        ):  # the window ends before the item and its mark; or there is no item
            more = text.read(max(WINDOW, len(window)))
            if not more:
                raise ValueError from None
            window, at = window[at:] + more, 0
        else:
            yield item
            at = end + 1
    rest = window[at:] + text.read()
    if mark != "]" or _skip(rest, 0) < len(rest):
        raise ValueError


def _skip(text: str, at: int) -> int:
    space = SPACE.match(text, at)
    assert space
    return space.end()


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def parse_records(
    content: bytes, path: Path | str, unused: Counter[str] | None = None, known: bool = False
) -> list[Record]:
    """Records from a JSON array or from JSON Lines (one object a line), in UTF-8. Of a key given twice the last counts.

    Args:
        unused: as in `stream_records`, and so is `known`.

    Raises:
        InputError: by line and column for the syntax, by record number (from 1) for what a record holds.
    """
    if told := binary_format(content):
        raise InputError(f"{path}: {told}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    if not text.strip():
        raise InputError(f"{path}: empty, expected a JSON array of records")
    try:
        items = _parse_lines(text, path) if text.lstrip()[0] == "{" else _parse(text, path)
    except RecursionError:
        raise InputError(f"{path}: nested too deeply, expected a JSON array of records") from None
    if not isinstance(items, list):
        raise InputError(f"{path}: {_kind(items)} instead of an array of records")
    if not items:
        raise InputError(f"{path}: an empty array, expected at least one record")
    records = [checked_record(item, path, number, known) for number, item in enumerate(items, 1)]
    if unused is not None:
        for item in items:
            count_unused(item, unused)
    return records


def count_unused(item: dict[Any, Any], unused: Counter[str]) -> None:
    """Count the keys of a record that are not read."""
    for key in map(str, item):
        if key not in KEYS and (key in unused or len(unused) < MOST_KEYS):
            unused[key] += 1


def _parse(text: str, path: Path | str, line: int = 0) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise InputError(f"{path}: {constant}{f' in line {line}' if line else ''} is not JSON")

    try:  # no number is used, and float() reads also thousands of digits
        return json.loads(text, parse_constant=refuse, parse_int=float)
    except json.JSONDecodeError as error:
        place = f"line {line or error.lineno}, column {error.colno}"
        raise InputError(
            f"{path}: not JSON at {place} ({error.msg}); {looks_like(text, error.pos)}"
        ) from None


def _parse_lines(text: str, path: Path | str) -> Any:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if (
        len(lines) > 1 and lines[0][1].rstrip()[-1] != "}"
    ):  # an object over several lines is one JSON document
        return _parse(text, path)
    items = [_parse(line, path, number) for number, line in lines]
    return (
        items[0] if len(items) == 1 and not {"instruction", "output"} & items[0].keys() else items
    )


def checked_record(item: Any, path: Path | str, number: int, known: bool = False) -> Record:
    """A parsed object as a record; raises InputError, which names it by `path` and its number from 1."""
    where = f"{path}: record {number}"
    if not isinstance(item, dict):
        raise InputError(
            f"{where}: {_kind(item)} instead of an object with instruction, input and output"
        )
    for key in item:
        meant = resembled(str(key))
        if meant and meant not in item and not known:
            raise InputError(
                f"{where}: {key!r} is not read; rename it to '{meant}', or leave it out"
            )
    for key in ("instruction", "output"):
        if key not in item:
            found = ", ".join(map(repr, list(item)[:5])) or "nothing"
            raise InputError(f"{where}: no '{key}', expected instruction and output; found {found}")
    texts = {key: item.get(key, "") for key in ("instruction", "input", "output")}
    if texts["input"] is None:
        texts["input"] = ""
    for key, value in texts.items():
        if not isinstance(value, str):
            raise InputError(f"{where}: '{key}' is {_kind(value)}, expected text")
        if SURROGATE.search(value):
            raise InputError(
                f"{where}: '{key}' holds half of a surrogate pair, which is no character"
            )
    category = item.get("category")
    return Record(**texts, category=category if isinstance(category, str) else None)


@lru_cache(1000)
def resembled(key: str) -> str | None:
    """The key of a record that another one resembles, by case, by blanks around it or by one letter."""
    if key in KEYS:
        return None
    plain = key.strip(" \t\n\r\ufeff").casefold() if len(key) < 40 else ""
    return next((known for known in KEYS if _one_letter_apart(plain, known)), None)


def _one_letter_apart(first: str, second: str) -> bool:
    """Whether two words are the same after one letter is put in, taken out or changed, or two neighbours swapped."""
    shared = zip(first, second, strict=False)
    same = next(
        (at for at, (one, other) in enumerate(shared) if one != other), min(len(first), len(second))
    )
    a, b = first[same:], second[same:]
    swapped = a[:2] == b[1::-1] and a[2:] == b[2:]
    return swapped or a[1:] == b[1:] or a[1:] == b or a == b[1:]


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a truth value"
    names = {int: "a number", float: "a number", str: "text", list: "an array", dict: "an object"}
    return names.get(
        type(value), f"a Python {type(value).__name__}"
    )  # the latter in notebooks alone
