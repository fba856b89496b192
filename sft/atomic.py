"""Files that are written whole or not at all, and errors that name the file."""

import csv
import glob
import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from filelock import FileLock, Timeout

from sft.claims import warn_of_no_locks
from sft.errors import InputError

log = logging.getLogger(__name__)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError in this context, as of a full disk, into an InputError naming the file."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


@contextmanager
def replaced(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that replaces `path` once it is whole and on the disk.

    Raises:
        InputError: it cannot be written, as on a full disk. The old file is then kept.
    """
    fresh = path.with_name(f".{path.name}.part")
    with writing(path):
        try:
            with fresh.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise


@contextmanager
def replaced_folder(folder: Path, files: set[str], kept: str) -> Iterator[Path]:
    """Make a temporary folder that replaces `folder` once it is whole and on the disk.

    If the writing fails, the temporary folder is deleted and `folder` is kept.

    Args:
        files: names of the files that `folder` may hold and lose.
        kept: one of them, which is copied into the new folder.

    Raises:
        InputError: `folder` holds other files, or is a file, or cannot be written.
    """
    folder = folder.expanduser().resolve()
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}")
    with writing(folder):
        try:
            restore_folder(folder)
            _check_replaceable(folder, files)
            temporary.mkdir(parents=True)
            with _claimed(temporary):
                yield temporary
                if (folder / kept).exists():
                    shutil.copy(folder / kept, temporary / kept)
                for path in temporary.iterdir():
                    _fsync(path)
                _replace(folder, temporary)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def restore_folder(folder: Path) -> bool:
    """Finish a `replaced_folder` that was killed, and return whether the folder exists.

    The old folder is moved aside only when the new one is whole. So if it was moved, the new one
    takes its place; otherwise the new one is deleted. A temporary folder that a living process has
    claimed is left alone.
    """
    # The pattern excludes other names that begin in the same way, such as `.name.settings`.
    ours = f".{glob.escape(folder.name)}.{'[0-9a-f]' * 8}"
    for aside in folder.parent.glob(f"{ours}.old"):
        temporary = aside.with_suffix("")
        if not folder.exists():
            (temporary if temporary.exists() else aside).rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
    for unfinished in folder.parent.glob(ours):
        with _claimed(unfinished) as free:
            if free:
                shutil.rmtree(unfinished, ignore_errors=True)
    return folder.exists()


@contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Lock a folder until this process ends (flock(2)), and say whether that worked.

    It does not if another process has locked or moved the folder, or if there are no locks here
    (see `locked`). In the last case nobody knows whether a process uses the folder.
    """
    with ExitStack() as stack:
        try:
            # Windows has no fcntl.
            import fcntl

            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except (OSError, ImportError) as error:
            log.debug(f"{folder}: {error}")
            free = False
        yield free


def _check_replaceable(folder: Path, files: set[str]) -> None:
    """Raise InputError if `folder` is a file, or holds other files than these."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file; expected a folder for the checkpoint")
    other = sorted({path.name for path in folder.iterdir()} - files)
    if other:
        raise InputError(
            f"{folder}: holds other files ({', '.join(other[:4])}), which would be lost; give a "
            "new folder"
        )


def _replace(folder: Path, temporary: Path) -> None:
    """Put `temporary` in the place of `folder`.

    A folder cannot be renamed onto another, so the old one is moved aside first.
    """
    aside = folder.with_name(f"{temporary.name}.old")
    if folder.exists():
        folder.rename(aside)
    try:
        temporary.rename(folder)
    except OSError:
        if aside.exists():
            aside.rename(folder)
        raise
    _fsync(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _fsync(path: Path) -> None:
    """Write a file, or a folder's list of names, from memory to the disk."""
    # Windows can do neither through a handle that only reads, and writes the names by itself.
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path, refuse: str | None = None) -> Iterator[None]:
    """Let one process at a time into this context, by a lock file.

    Not every place has locks. A folder that cannot be written gives an OSError, and where flock(2)
    is missing, filelock raises NotImplementedError. There all processes enter at once, so the
    context must be safe without the lock, too.

    Args:
        refuse: the message with which further processes are refused; None: they wait.

    Raises:
        InputError: another process is in the context, and `refuse` is given.
    """
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(path, timeout=-1 if refuse is None else 0))
        except Timeout:
            raise InputError(refuse or "") from None
        except (OSError, NotImplementedError) as error:
            if refuse is not None:
                warn_of_no_locks(path.parent, error)
            log.debug(f"{path}: {error}")
        yield


def make_folder(folder: Path) -> None:
    """Make a folder and its parents. Raise InputError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: the folder cannot be made ({error.strerror})") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file; errors are those of `replaced`.

    Half of a surrogate pair is not a character. It becomes "?".
    """
    with replaced(path) as file:
        file.write(text.encode(errors="replace"))


def write_json(path: Path, content: Any) -> None:
    """Write strict JSON, in which NaN and infinity are null; otherwise as `write_text`."""
    text = json.dumps(finite(content), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, f"{text}\n")


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write JSON Lines, one row a line; otherwise as `write_json`."""
    with replaced(path) as file:
        for row in rows:
            line = json.dumps(finite(row), ensure_ascii=False, allow_nan=False)
            file.write(f"{line}\n".encode(errors="replace"))


def read_json_lines(path: Path) -> list[Any]:
    """Read what `write_json_lines` wrote."""
    # Other ends of lines than "\n", such as U+2028, may be part of a text.
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def read_json(path: Path, expected: str = "a JSON object") -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Args:
        expected: the object in words, for messages.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        # Bytes that are not UTF-8 raise a ValueError too.
        raise InputError(f"{path}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected {expected}, found {type(found).__name__}")
    return found


def read_numbers(path: Path) -> list[dict[str, float]]:
    """Return the rows of a CSV file of numbers, without their empty cells.

    A last line without its end was interrupted while it was written. It is left out.
    """
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    rows = []
    for row in csv.DictReader(lines):
        rows.append({key: _number(value) for key, value in row.items() if value})
    return rows


def _number(text: str) -> float:
    return int(text) if text.isdigit() else float(text)


def finite(value: Any) -> Any:
    """Return the same content with None for every number that is not finite."""
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{name: finite(item) for name, item in vars(value).items()})
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
