"""Claims on folders: one process at a time works in a run's folder, by a lock that ends with the process."""

import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sft.errors import InputError

log = logging.getLogger("sft")

OWNER = ".lock"  # of the process that the run belongs to
RANKS = ".lock-ranks"  # of rank 0 where that process started others, which may outlive it by a step

_held: dict[
    Path, int | None
] = {}  # the lock files of this process, each as an open file; None: no locks there
_said_of: set[str] = set()  # what `say_once` has said


class InUseError(InputError):
    """Another process works in the folder."""


def claim(folder: Path, key: str) -> bool:
    """Keep an existing folder for this process until `release`, or until it dies.

    Nothing that another process wrote there is touched if it is refused. A dead process keeps nothing: the kernel
    gives its locks back, also after kill -9.

    Args:
        key: the setting that named the folder, for the message.

    Returns:
        False if this process had the folder already.

    Raises:
        InUseError: another process has it.
    """
    folder = folder.resolve()
    if folder / OWNER in _held:
        return False
    _take(folder, OWNER, key)

    # The processes of a launcher that was killed are still writing their last checkpoint.
    try:
        _take(folder, RANKS, key)
    except InUseError:
        _drop(folder / OWNER)
        raise
    _drop(folder / RANKS)
    return True


@contextmanager
def claimed_by_rank_0(folder: Path) -> Iterator[None]:
    """Keep the folder also in rank 0, where that is another process than the owner; see `RANKS`."""
    folder = folder.resolve()
    if folder / OWNER in _held:
        yield
        return
    _take(folder, RANKS, "hydra.run.dir")
    try:
        yield
    finally:
        _drop(folder / RANKS)


def release(folder: Path) -> None:
    """Give up a claim of this process."""
    _drop(folder.resolve() / OWNER)


def release_all() -> None:
    """Give up all claims of this process."""
    for path in list(_held):
        _drop(path)


def make_fresh(folder: Path) -> Path:
    """Make a folder that no process has, under this name or with the first free number behind it.

    mkdir(2) decides between processes that want the same name, so this holds without locks.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    number, fresh = 1, folder
    while True:
        try:
            fresh.mkdir()
            return fresh
        except FileExistsError:
            number += 1
            fresh = folder.with_name(f"{folder.name}-{number}")


def say_once(message: str) -> None:
    """Warn, but not twice in the same words."""
    if message not in _said_of:
        _said_of.add(message)
        log.warning(message)


def warn_of_no_locks(folder: Path, error: Exception) -> None:
    """Say once that a folder cannot be claimed, as on some network file systems."""
    say_once(
        f"warning: {folder}: no locks there ({error}), so nothing keeps a second process out of it"
    )


def _take(folder: Path, name: str, key: str) -> None:
    """Lock a file in the folder, see `claim`."""
    path = folder / name
    try:
        handle = _lock(path)
    except BlockingIOError:
        owner = path.read_text(encoding="utf-8", errors="replace").strip() or "another process"
        raise InUseError(
            f"{key}: {folder} is in use by {owner}; wait for its end, or give another folder"
        ) from None
    except (ImportError, NotImplementedError, OSError) as error:
        warn_of_no_locks(folder, error)
        handle = None
    _held[path] = handle


def _lock(path: Path) -> int:
    """Make a file and lock it; raises BlockingIOError if another process has it."""
    import fcntl  # not everywhere part of Python

    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

            # Its last owner may have deleted it between the two calls. Then the lock is on a file without a name.
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                os.ftruncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {platform.node()}\n".encode())
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _drop(path: Path) -> None:
    handle = _held.pop(path, None)
    if handle is not None:
        # Deleted before it is unlocked: afterwards the file may already be another's.
        path.unlink(missing_ok=True)
        os.close(handle)


def _forget() -> None:
    """Close the locks in a forked process, which would otherwise keep them beyond the end of their owner."""
    for handle in _held.values():
        if handle is not None:
            os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_forget)
