"""Claims on folders: one process at a time works in the folder of a run.

A claim is a lock on a file (flock(2)). The kernel releases it when the process ends, also after
kill -9. `sft/folders.py` decides which folder a run claims.
"""

import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sft.errors import InputError

log = logging.getLogger("sft")

# The lock file of the process that owns the run.
OWNER = ".lock"

# The lock file of rank 0, where the owner started other processes. These may outlive it by a step.
RANKS = ".lock-ranks"

# The lock files of this process, each with its file descriptor; None: the folder has no locks.
_held: dict[Path, int | None] = {}

# The messages of `say_once`.
_said: set[str] = set()


class InUseError(InputError):
    """Another process works in the folder."""


def claim(folder: Path, key: str) -> bool:
    """Keep an existing folder for this process until `release`, or until it ends.

    A refused claim leaves the folder as it was.

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
    """Keep the folder also for rank 0, if that is another process than the owner (see `RANKS`)."""
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
    """Release a claim of this process."""
    _drop(folder.resolve() / OWNER)


def release_all() -> None:
    """Release all claims of this process."""
    for path in list(_held):
        _drop(path)


def make_fresh(folder: Path) -> Path:
    """Make a new folder of this name, with the first free number appended if it exists.

    mkdir(2) decides between processes that want the same name, so this is safe without locks.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    fresh = folder
    while True:
        try:
            fresh.mkdir()
            return fresh
        except FileExistsError:
            number += 1
            fresh = folder.with_name(f"{folder.name}-{number}")


def say_once(message: str) -> None:
    """Log a warning, unless this process has logged the same one before."""
    if message not in _said:
        _said.add(message)
        log.warning(message)


def warn_of_no_locks(folder: Path, error: Exception) -> None:
    """Warn that a folder cannot be locked, as on some network file systems."""
    say_once(
        f"warning: {folder}: no locks there ({error}), so nothing stops a second process from "
        "working in it"
    )


def _take(folder: Path, name: str, key: str) -> None:
    """Lock a file in the folder. Where locks do not exist, go on without one."""
    path = folder / name
    try:
        handle = _lock(path)
    except BlockingIOError:
        owner = path.read_text(encoding="utf-8", errors="replace").strip() or "another process"
        raise InUseError(
            f"{key}: {folder} is in use by {owner}; wait until it ends, or give another folder"
        ) from None
    except (ImportError, NotImplementedError, OSError) as error:
        warn_of_no_locks(folder, error)
        handle = None
    _held[path] = handle


def _lock(path: Path) -> int:
    """Make a file and lock it. Raise BlockingIOError if another process has it."""
    # Windows has no fcntl. `_take` then goes on without a lock.
    import fcntl

    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

            # The last owner may have deleted the file between the two calls. The lock is then on a
            # file without a name, which keeps nobody out.
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
        # Delete the file before unlocking it. Afterwards it may be another process's.
        path.unlink(missing_ok=True)
        os.close(handle)


def _forget() -> None:
    """Close the lock files in a forked process. It would keep them locked after the owner ended."""
    for handle in _held.values():
        if handle is not None:
            os.close(handle)
    _held.clear()


# Windows has no fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
