"""The resumable checkpoints of a run: `checkpoints/last.ckpt` and, from the save before it, `last-1.ckpt`.

Each has its SHA-256 beside it, as sha256sum(1) writes it. Whenever the machine stops, one of the two is whole.
"""

import hashlib
import logging
import os
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
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


class _Hashing:
    """A file for torch.save, which only writes to it. What it is given is hashed while it is written, by a second
    thread, and the error of a write is kept."""

    def __init__(self, file: IO[bytes], thread: Executor) -> None:
        self.file, self.thread, self.sha256 = file, thread, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        hashed = self.thread.submit(self.sha256.update, data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise
        finally:
            hashed.result()

    def flush(self) -> None:
        self.file.flush()


@contextmanager
def _without_crc32() -> Iterator[None]:
    """The zip file that torch.save writes has checksums of its own, which take longer than to write it."""
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
            hashing = _Hashing(file, thread)
            try:
                torch.save(checkpoint, hashing)  # type: ignore[arg-type]
            except RuntimeError as error:  # torch has words of its own for a full disk
                raise hashing.error or error from None
            file.flush()
            os.fsync(file.fileno())
            self._step_aside(path)
            _write_hash(path, hashing.sha256.hexdigest())
        self.read = None

    def _step_aside(self, path: Path) -> None:
        """In an order that leaves one of the two whole, with its own hash, wherever it is cut off. One that could not
        be read must not take the place of the one that was read in its stead."""
        aside = _before(path)
        if path.exists() and self.read != aside:
            if _beside(path).exists():
                _write_hash(aside, _beside(path).read_text(encoding="utf-8").partition(" ")[0])
            os.replace(path, aside)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        self.read = Path(path)
        return dict(torch.load(path, map_location=map_location, weights_only=True))


def _write_hash(path: Path, sha256: str) -> None:
    write_text(_beside(path), f"{sha256}  {path.name}\n")
