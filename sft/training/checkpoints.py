"""The resumable checkpoints of a run: `checkpoints/last.ckpt` and, from the save before it, `last-1.ckpt`.

Each has its SHA-256 beside it, as sha256sum(1) writes it. Whenever the machine stops, one of the two is whole.
"""

import hashlib
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import IO, Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from sft.config import InputError
from sft.files import make_folder, replaced, write_text

log = logging.getLogger(__name__)
NEEDED = ("config", "made_of", "global_step", "tracked", "watched")


def last(folder: Path) -> Path:
    """Where a run's newest checkpoint lies."""
    return folder / "checkpoints" / "last.ckpt"


def _before(path: Path) -> Path:
    return path.with_stem(f"{path.stem}-1")


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def read_newest(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The newest whole checkpoint of a run, and what it says of the run beside its state.

    Raises:
        InputError: there is none.
    """
    path = last(folder)
    try:
        return path, _read(path)
    except InputError as error:
        if not _before(path).exists():
            raise
        found = _read(_before(path))
        log.warning(f"{error}; going on from {_before(path).name}, the one before it")
        return _before(path), found


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"resume: {path} is not there; resume= wants the folder of a run that reached a checkpoint")
    try:
        if _beside(path).exists():
            _check_hash(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if missing := [key for key in NEEDED if key not in content]:
            raise ValueError(f"without {', '.join(missing)}: written by another version?")
        return {key: content[key] for key in NEEDED}
    except Exception as error:  # a damaged pickle makes torch raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a checkpoint of a run, or damaged ({reason})") from error


def _check_hash(path: Path) -> None:
    expected = _beside(path).read_text(encoding="utf-8", errors="replace").partition(" ")[0]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ValueError(f"sha256 {found[:12]}…, expected {expected[:12]}…")


class _Watched:
    """A file for torch.save, which only writes to it, that keeps the error of a write."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _digest(path: Path, whole: Event) -> str:
    """The SHA-256 of a file that grows until it is `whole`: read while it is written, so that nobody waits for it."""
    sha256, memory = hashlib.sha256(), memoryview(bytearray(1 << 22))
    with path.open("rb", buffering=0) as file:
        while True:
            last = whole.is_set()
            if size := file.readinto(memory):
                sha256.update(memory[:size])
            elif last:
                return sha256.hexdigest()
            else:
                whole.wait(0.01)


@contextmanager
def _without_crc32() -> Iterator[None]:
    """The zip file that torch.save writes would have checksums of its own, which nothing reads."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


class CheckpointFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place, has the one that stood there step aside, and moves the new one in once it
    is on the disk; reads plain tensors and numbers only, never a pickled object."""

    def __init__(self) -> None:
        self.read: Path | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Raises InputError if it cannot be written, as on a full disk; what stood there stays."""
        path = Path(path)
        make_folder(path.parent)
        with replaced(path) as file, ThreadPoolExecutor(1) as thread, _without_crc32():
            watched, whole = _Watched(file), Event()
            digest = thread.submit(_digest, Path(file.name), whole)
            try:
                torch.save(checkpoint, watched)  # type: ignore[arg-type]  # which says it needs more than `write`
                file.flush()
                whole.set()
                os.fsync(file.fileno())
            except RuntimeError as error:  # torch has words of its own for a full disk
                raise watched.error or error from None
            finally:
                whole.set()
            sha256 = digest.result()
            self._step_aside(path)
            _write_hash(path, sha256)
        self.read = None

    def _step_aside(self, path: Path) -> None:
        """In an order that leaves one of the two whole, with its own hash, wherever it is cut off. One that could not
        be read must not take the place of the one that was read in its stead."""
        aside = _before(path)
        if path.exists() and self.read != aside:
            if _beside(path).exists():
                _write_hash(aside, _beside(path).read_text(encoding="utf-8").partition(" ")[0])
            else:
                _beside(aside).unlink(missing_ok=True)  # of the one before
            os.replace(path, aside)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        self.read = Path(path)
        return dict(torch.load(path, map_location=map_location, weights_only=True))


def _write_hash(path: Path, sha256: str) -> None:
    write_text(_beside(path), f"{sha256}  {path.name}\n")
