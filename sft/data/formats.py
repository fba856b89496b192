"""File formats: `FORMATS` says how the values in a file are read, one by one.

A format is one entry of the table. Its reader takes a file and yields what the file holds, dicts in
a well-formed file. `records.py` then makes a record of each.
"""

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from sft.data.not_json import binary_format, looks_like, not_utf8
from sft.data.tables import read_arrow, read_csv, read_parquet
from sft.errors import InputError

# How much of a file is in memory at once, in characters.
WINDOW = 1 << 20

# How many bytes are read to tell the format.
HEAD = 1024


class Number(str):
    """A number of JSON, as it is written there."""


BLANK = b" \t\n\r"
SPACE = re.compile(r"[ \t\n\r]*")


def stream_array(file: BinaryIO, name: Path | str) -> Iterator[Any]:
    """Yield the items of a JSON array; errors are those of `parse_json`."""
    return _stream(_array_items, file, name)


def stream_lines(file: BinaryIO, name: Path | str) -> Iterator[Any]:
    """Yield the values of JSON Lines, one a line; errors are those of `parse_json`."""
    return _stream(_line_items, file, name)


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        fits: whether a file that begins with these bytes has this format; a byte order mark and
            blanks before them are left out.
        read: yield the values in the file, one by one. Messages call the file by the name given.
        suffixes: endings of a file's name. They find the files of a folder, and they decide where
            no format fits the first bytes.
    """

    fits: Callable[[bytes], bool]
    read: Callable[[BinaryIO, Path | str], Iterator[Any]]
    suffixes: tuple[str, ...] = ()


def _never(head: bytes) -> bool:
    """A table of text can begin with anything, so only its name tells it."""
    return False


# To add a format, add it here. Each may also be compressed with gzip.
FORMATS: dict[str, Format] = {
    "JSON": Format(lambda head: head.startswith(b"["), stream_array, (".json",)),
    "JSON Lines": Format(lambda head: head.startswith(b"{"), stream_lines, (".jsonl", ".ndjson")),
    "CSV": Format(_never, read_csv, (".csv", ".tsv")),
    "Parquet": Format(lambda head: head.startswith(b"PAR1"), read_parquet, (".parquet",)),
    "Arrow": Format(
        lambda head: head.startswith((b"ARROW1", b"\xff\xff\xff\xff")),
        read_arrow,
        (".arrow", ".feather"),
    ),
}

GZIP = b"\x1f\x8b"

# The names under which an object holds the lists of the splits.
SPLITS = {
    "train": "train",
    "test": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}


def endings() -> tuple[str, ...]:
    """Return the endings of names that belong to a format."""
    plain = [suffix for form in FORMATS.values() for suffix in form.suffixes]
    return (*plain, *(f"{suffix}.gz" for suffix in plain))


def read_values(
    file: BinaryIO,
    name: Path | str,
    is_record: Callable[[dict[str, Any]], bool],
    lists: dict[str, int] | None = None,
) -> Iterator[Any]:
    """Yield the values of a file in any format, one by one.

    An object around the list of records is unwrapped. An object with lists named train, test and
    validation yields them in this order.

    Args:
        is_record: whether an object is meant as a record, and so is not a wrapper.
        lists: takes the lengths of the lists of a wrapper, by their names.

    Raises:
        InputError: the file is broken, or has no known format.
    """
    packed = file.read(len(GZIP)) == GZIP
    file.seek(0)
    plain = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if packed else file
    try:
        form = format_of(plain, name)
        values = FORMATS[form].read(plain, name)
        yield from _unwrapped(values, name, is_record, lists) if form == "JSON Lines" else values
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{name}: the gzip file is damaged or cut short ({error}); get it again"
        ) from None


def _unwrapped(
    values: Iterator[Any],
    name: Path | str,
    is_record: Callable[[dict[str, Any]], bool],
    lists: dict[str, int] | None,
) -> Iterator[Any]:
    """Yield the values. If the only one is a wrapper, yield the items of its lists instead."""
    first = list(islice(values, 2))
    if len(first) != 1 or not isinstance(first[0], dict) or is_record(first[0]):
        yield from chain(first, values)
        return

    # An object without lists and objects is meant as a record, and so is a line of JSON Lines.
    inner = [value for value in first[0].values() if isinstance(value, list | dict)]
    found = _lists_in(first[0])
    if not found and first[0] and (not inner or _named(name, "JSON Lines")):
        yield from first
        return
    if not found:
        keys = ", ".join(repr(key[:40]) for key in list(first[0])[:5]) or "nothing"
        raise InputError(
            f"{name}: an object instead of an array of records, and not with one list of records, "
            f"or with lists named train, test and validation; found {keys}"
        )
    if not any(found.values()):
        raise InputError(f"{name}: an empty list in {next(iter(found))!r}, expected records")
    if lists is not None:
        lists.update({key: len(items) for key, items in found.items()})
    for items in found.values():
        yield from items


def _lists_in(document: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the lists of objects in a wrapper, by their names; none if it is not a wrapper.

    Train comes first, then test, then validation.
    """
    found = {
        key: value
        for key, value in document.items()
        if isinstance(value, list) and all(isinstance(item, dict) for item in value)
    }
    splits = {SPLITS[key]: value for key, value in found.items() if key in SPLITS}
    if len(found) > 1 and len(splits) == len(found):
        return {name: splits[name] for name in ("train", "test", "validation") if name in splits}
    return found if len(found) == 1 else {}


def format_of(file: BinaryIO, name: Path | str = "") -> str:
    """Return the name of a file's format; the file is then at its start again.

    The first bytes decide, then the ending of its name. A file of no format counts as JSON, whose
    reader says what the file looks like.
    """
    head = file.read(HEAD).removeprefix(codecs.BOM_UTF8).lstrip(BLANK)
    while not head:
        more = file.read(HEAD)
        if not more:
            break
        head = more.lstrip(BLANK)
    file.seek(0)
    for form in FORMATS:
        if FORMATS[form].fits(head):
            return form
    return next((form for form in FORMATS if _named(name, form)), "JSON")


def _named(name: Path | str, form: str) -> bool:
    """Return whether a file is named like one of a format."""
    return str(name).lower().removesuffix(".gz").endswith(FORMATS[form].suffixes)


# JSON in pieces


def _stream(
    read: Callable[[TextIOWrapper], Iterator[Any]], file: BinaryIO, name: Path | str
) -> Iterator[Any]:
    """Yield what `read` yields. Where it fails, `parse_json` reads the whole file.

    So a file of a million records is never in memory as a whole. A broken one is: `parse_json`
    explains every fault, and accepts the few layouts that `read` cannot divide.
    """
    text = TextIOWrapper(file, "utf-8-sig", newline="\n")
    done = 0
    try:
        for item in read(text):
            yield item
            done += 1
    except (ValueError, RecursionError):
        file.seek(0)
        yield from islice(parse_json(file.read(), name), done, None)
    finally:
        # A wrapper that is collected closes its file, which belongs to the caller.
        text.detach()


def _line_items(text: TextIOWrapper) -> Iterator[Any]:
    for line in text:
        if line.strip():
            yield json.loads(line, parse_constant=_refuse, parse_int=Number, parse_float=Number)


def _array_items(text: TextIOWrapper) -> Iterator[Any]:
    """Yield the items of an array, with one window of the file in memory at a time.

    Raises:
        ValueError: the file is not an array, or is broken.
    """
    window = ""
    while not window:
        more = text.read(WINDOW)
        if not more:
            raise ValueError("empty")
        window = more[_skip(more, 0) :]
    if window[0] != "[":
        raise ValueError("not an array")

    # `at` is where the next item begins, and `mark` the character after the item before.
    decoder = json.JSONDecoder(parse_constant=_refuse, parse_int=Number, parse_float=Number)
    at = 1
    mark = ","
    while mark == ",":
        try:
            item, end = decoder.raw_decode(window, _skip(window, at))
            end = _skip(window, end)
            mark = window[end]
        except (ValueError, IndexError):
            # The window ends before the item and its mark do, or there is no item. At twice its
            # size each time, an item of any length is read in linear time.
            more = text.read(max(WINDOW, len(window)))
            if not more:
                raise ValueError("no item") from None
            window = window[at:] + more
            at = 0
        else:
            yield item
            at = end + 1

    rest = window[at:] + text.read()
    if mark != "]" or _skip(rest, 0) < len(rest):
        raise ValueError("no end")


def _skip(text: str, at: int) -> int:
    """Return the place of the first character from `at` on that is not blank."""
    space = SPACE.match(text, at)
    assert space
    return space.end()


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


# JSON as a whole


def parse_json(content: bytes, name: Path | str) -> list[Any]:
    """Return the values in a JSON array or in JSON Lines, in UTF-8. Of equal keys the last counts.

    A single object is the only value.

    Raises:
        InputError: the content is neither. The message names line and column, and what the content
            looks like.
    """
    if described := binary_format(content):
        raise InputError(f"{name}: {described}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{name}: {not_utf8(BytesIO(content))}") from None
    if not text.strip():
        raise InputError(f"{name}: empty, expected a JSON array of records")

    try:
        items = _parse_lines(text, name) if text.lstrip()[0] == "{" else _parse(text, name)
    except RecursionError:
        raise InputError(f"{name}: nested too deeply, expected a JSON array of records") from None
    if isinstance(items, dict):
        return [items]
    if not isinstance(items, list):
        raise InputError(f"{name}: {kind_of(items)} instead of an array of records")
    if not items:
        raise InputError(f"{name}: an empty array, expected at least one record")
    return items


def _parse(text: str, name: Path | str, line: int = 0) -> Any:
    """Parse a JSON document, or a line of JSON Lines, whose number messages then give."""

    def refuse(constant: str) -> NoReturn:
        raise InputError(f"{name}: {constant}{f' in line {line}' if line else ''} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse, parse_int=Number, parse_float=Number)
    except json.JSONDecodeError as error:
        place = f"line {line or error.lineno}, column {error.colno}"
        raise InputError(
            f"{name}: not JSON at {place} ({error.msg}); {looks_like(text, error.pos)}"
        ) from None


def _parse_lines(text: str, name: Path | str) -> Any:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]

    # An object over several lines is one JSON document.
    if len(lines) > 1 and lines[0][1].rstrip()[-1] != "}":
        return _parse(text, name)
    return [_parse(line, name, number) for number, line in lines]


def kind_of(value: Any) -> str:
    """Return a value's type in the words of JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a truth value"
    kinds = {
        int: "a number",
        float: "a number",
        Number: "a number",
        str: "text",
        list: "an array",
        dict: "an object",
    }

    # A notebook may give any object as a record.
    return kinds.get(type(value), f"a Python {type(value).__name__}")
