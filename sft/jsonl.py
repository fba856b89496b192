"""Files of JSON lines, to which results are added one by one, each on disk before the next begins.

Each line has a `key`, a hash of everything that decides its result. So a line is reused exactly
where the same result would be found again. If several lines have the same key, the last one counts.
"""

import errno
import json
import os
import threading
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from sft.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Entry = TypeVar("Entry", bound="DataclassInstance")


class LineFile(Generic[Entry]):
    """The results of a file, by key. A subclass names the dataclass of its results.

    Attributes:
        kind: the dataclass of a result.
        noun: the word for a result in messages.

    Raises:
        InputError: the file cannot be read or written, or a line is not a result. A last line that
            was written in part is dropped instead.
    """

    kind: ClassVar[type[Any]]
    noun: ClassVar[str]

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            lines = _whole_lines(path) if path.exists() else []
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        self.by_key = dict(self._parse(line, number) for number, line in enumerate(lines, 1))

    def _parse(self, line: bytes, number: int) -> tuple[str, Entry]:
        try:
            # A line of an earlier version may lack fields that have defaults.
            values = json.loads(line)
            names = [field.name for field in fields(self.kind) if field.name in values]
            return values["key"], self.kind(**{name: values[name] for name in names})
        except (ValueError, TypeError, LookupError) as error:
            raise InputError(
                f"{self.path}: line {number} is not a valid {self.noun}; delete the "
                "line, or the file"
            ) from error

    def add(self, key: str, entry: Entry, **labels: Any) -> None:
        """Add a result, which is on disk when this returns. Threads may call it at the same time.

        Args:
            labels: for people who read the file; the line holds them after its key.
        """
        line = json.dumps({"key": key} | labels | asdict(entry), ensure_ascii=False) + "\n"
        try:
            with self._lock:
                _append(self.path, line.encode(errors="replace"))
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be written ({error.strerror}); the lines before are kept, so "
                "make room and run the same command again"
            ) from error
        self.by_key[key] = entry


def _append(path: Path, line: bytes) -> None:
    """Append the whole line or, on a full disk, nothing, since another line may follow."""
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        try:
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            os.truncate(path, end)
            raise


def _whole_lines(path: Path) -> list[bytes]:
    """Return the lines of a file, after removing a last one that was written in part."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    return whole.split(b"\n")[:-1]
