"""Files of JSON lines, to which results are added one by one, each on the disk from the moment it is there.

Each line has a `key`, a hash of all that decides its result, so it is used again exactly where the same result would be
found again. Of a key's lines the last counts.
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
    """The results there are, by key. A kind of file is a subclass that names the dataclass of its results.

    Raises:
        InputError: the file cannot be read or written, or a line of it, other than a torn last one, is no result.
    """

    kind: ClassVar[type[Any]]
    noun: ClassVar[str]  # what a result is called

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
            values = json.loads(line)
            names = [
                item.name for item in fields(self.kind)
            ]  # a line of an earlier version may lack the last
            return values["key"], self.kind(
                **{name: values[name] for name in names if name in values}
            )
        except (ValueError, TypeError, LookupError) as error:
            raise InputError(
                f"{self.path}: line {number} is no {self.noun}; delete the line, or the file"
            ) from error

    def add(self, key: str, entry: Entry, **labels: Any) -> None:
        """Keep a result: when this returns, it is on the disk. Threads may call it at once.

        Args:
            labels: for who reads the file; the line holds them after its key.
        """
        line = json.dumps({"key": key} | labels | asdict(entry), ensure_ascii=False) + "\n"
        try:
            with self._lock:
                _append(self.path, line.encode(errors="replace"))
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be written ({error.strerror}); what stood there before is kept, so make room "
                "and run the same command again"
            ) from error
        self.by_key[key] = entry


def _append(path: Path, line: bytes) -> None:
    """The whole line or, on a full disk, nothing of it, since another one may follow."""
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
    """The lines of a file, after cutting off a last one that was not written to its end."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    return whole.split(b"\n")[:-1]
