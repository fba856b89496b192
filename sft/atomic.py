"""Files that are whole or not there at all, and errors that name them."""

import csv
import glob
import json
import logging
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from filelock import FileLock, Timeout

from sft.claims import say_once, warn_of_no_locks
from sft.errors import InputError

log = logging.getLogger(__name__)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around the writing of a file: an OSError, as of a full disk, becomes an InputError that names the file."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


@contextmanager
def replaced(path: Path) -> Iterator[IO[bytes]]:
    """A file to be written beside `path`, which it replaces once it is whole and on the disk.

    Raises:
        InputError: it cannot be written, as on a full disk; what stood there stays.
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
    """A new folder to write into, which takes the place of `folder` once it is whole and on the disk, or vanishes.

    Args:
        files: what `folder` may hold and lose.
        kept: one of them that the new folder takes over.

    Raises:
        InputError: `folder` holds something else, or is none, or cannot be written.
    """
    folder = folder.expanduser().resolve()
    beside = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}")
    with writing(folder):
        try:
            restore_folder(folder)
            _check_replaceable(folder, files)
            beside.mkdir(parents=True)
            with _claimed(beside):
                yield beside
                if (folder / kept).exists():
                    shutil.copy(folder / kept, beside / kept)
                for path in beside.iterdir():
                    _fsync(path)
                _replace(folder, beside)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def restore_folder(folder: Path) -> bool:
    """Whether the folder is there, after ending what `replaced_folder` was killed in the middle of: its new folder is
    whole from the moment when the old one has stepped aside. What a living process has claimed is left to it."""
    ours = f".{glob.escape(folder.name)}.{'[0-9a-f]' * 8}"  # and nothing else that begins so, as `.name.settings`
    for aside in folder.parent.glob(f"{ours}.old"):
        beside = aside.with_suffix("")
        if not folder.exists():
            (beside if beside.exists() else aside).rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
    for unfinished in folder.parent.glob(ours):
        with _claimed(unfinished) as free:
            if free:
                shutil.rmtree(unfinished, ignore_errors=True)
    return folder.exists()


@contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Keep a folder for this process, by a lock that ends with it (flock(2)); False if another has it or moved it, or
    if there are no locks here (see `locked`), so that nobody knows whose it is."""
    with ExitStack() as stack:
        try:
            import fcntl  # not everywhere part of Python

            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except (OSError, ImportError) as error:
            log.debug(f"{folder}: {error}")
            free = False
        yield free


def _check_replaceable(folder: Path, files: set[str]) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; expected a folder for the checkpoint")
    other = sorted({path.name for path in folder.iterdir()} - files) if folder.exists() else []
    if other:
        raise InputError(
            f"{folder}: holds other files ({', '.join(other[:4])}), which would be lost; give a new folder"
        )


def _replace(folder: Path, beside: Path) -> None:
    """Put `beside` in the place of `folder`. A folder cannot be renamed onto another: the old one steps aside."""
    aside = folder.with_name(f"{beside.name}.old")
    if folder.exists():
        folder.rename(aside)
    try:
        beside.rename(folder)
    except OSError:
        if aside.exists():
            aside.rename(folder)
        raise
    _fsync(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _fsync(path: Path) -> None:
    """Have a file, or a folder's list of names, on the disk and not only in memory."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path, refuse: str | None = None) -> Iterator[None]:
    """One process at a time, by a lock file; the others wait, or are refused with that message.

    Some places have no locks: a folder that cannot be written gives an OSError, and where flock(2) is missing, filelock
    raises NotImplementedError. There all go on at once, so what is done here must be safe without it too.

    Raises:
        InputError: another process is at work here, and `refuse` is given.
    """
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(path, timeout=-1 if refuse is None else 0))
        except Timeout:
            raise InputError(refuse or "") from None
        except (OSError, NotImplementedError) as error:  # no locks here, see above
            if refuse is not None:
                warn_of_no_locks(path.parent, error)
            log.debug(f"{path}: {error}")
        yield


def warn_of_latest(name: str | Path) -> None:
    """Say so if what is named lies in an `outputs/latest` that is no link, as in a copy of `outputs` without links.

    New runs leave such a folder alone, so it holds an old one.
    """
    latest = Path("outputs/latest").absolute()
    named = Path(os.path.abspath(Path(name).expanduser()))
    if named.is_relative_to(latest) and latest.is_dir() and not latest.is_symlink():
        say_once(
            "warning: outputs/latest is a folder and no link, so it is not turned to newer runs; name the run that you "
            "mean, or move the folder away before you train again"
        )


def make_folder(folder: Path) -> None:
    """Raises InputError if there can be none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made a folder ({error.strerror})") from error


def write_text(path: Path, text: str) -> None:
    """Half of a surrogate pair, which is no character, becomes "?"; errors are those of `replaced`."""
    with replaced(path) as file:
        file.write(text.encode(errors="replace"))


def write_json(path: Path, content: Any) -> None:
    """Strict JSON, in which what is not a number is null; otherwise as `write_text`."""
    write_text(
        path, json.dumps(finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    )


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """JSON Lines, one row a line; otherwise as `write_json`."""
    with replaced(path) as file:
        for row in rows:
            line = json.dumps(finite(row), ensure_ascii=False, allow_nan=False) + "\n"
            file.write(line.encode(errors="replace"))


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
        # A ValueError is also what bytes give that are not UTF-8.
        raise InputError(f"{path}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected {expected}, found {type(found).__name__}")
    return found


def read_numbers(path: Path) -> list[dict[str, float]]:
    """The rows of a CSV file of numbers, without their empty cells; a last line that was cut off does not count."""
    lines = [
        line
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
        if line.endswith("\n")
    ]
    return [
        {key: _number(value) for key, value in row.items() if value}
        for row in csv.DictReader(lines)
    ]


def _number(text: str) -> float:
    return int(text) if text.isdigit() else float(text)


def finite(value: Any) -> Any:
    """The same content, with None for every number that is not finite."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
