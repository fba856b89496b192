"""The resumable checkpoints of a run: `checkpoints/last.ckpt`, and `last-1.ckpt` from before it.

Each has its SHA-256 in a file of its own, as sha256sum(1) writes it. Whenever the machine stops,
one of the two checkpoints is whole.
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

from sft.atomic import make_folder, replaced, sha256_of, write_text
from sft.errors import InputError

log = logging.getLogger(__name__)

# The keys of a checkpoint that describe the run. The LightningModule writes `watched`, the trackers
# `tracked`, and RunFolder `config` and `made_of`.
NEEDED = ("config", "made_of", "global_step", "tracked", "watched")

# Keys that checkpoints of earlier versions do not have.
SINCE = ("without_better",)


def last(folder: Path) -> Path:
    """Return where a run's newest checkpoint lies."""
    return folder / "checkpoints" / "last.ckpt"


def _before(path: Path) -> Path:
    return path.with_stem(f"{path.stem}-1")


def _hash_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def read_newest(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Find the newest whole checkpoint of a run, and read the keys that describe the run.

    Raises:
        InputError: no checkpoint is whole.
    """
    path = last(folder)
    try:
        return path, _read(path)
    except InputError as error:
        if not _before(path).exists():
            raise
        found = _read(_before(path))
        log.warning(f"{error}; resuming from {_before(path).name}, the one before it")
        return _before(path), found


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(
            f"resume: {path} is not there; resume= wants the folder of a run that reached a "
            "checkpoint"
        )
    # A damaged file makes torch raise anything.
    try:
        if _hash_file(path).exists():
            _check_hash(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if missing := [key for key in NEEDED if key not in content]:
            raise ValueError(f"without {', '.join(missing)}: written by another version?")
        return {key: content[key] for key in (*NEEDED, *SINCE) if key in content}
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a checkpoint of a run, or damaged ({reason})") from error


def _check_hash(path: Path) -> None:
    text = _hash_file(path).read_text(encoding="utf-8", errors="replace")
    expected = text.partition(" ")[0]
    found = sha256_of(path)
    if found != expected:
        raise ValueError(f"sha256 {found[:12]}…, expected {expected[:12]}…")


class _Watched:
    """A file to write to that remembers the error of a write.

    torch.save only calls `write` and `flush`, and replaces an OSError by one of its own.
    """

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
    """Hash a file while it is written, until it is `whole`, so that nobody waits for the hash."""
    sha256 = hashlib.sha256()
    memory = memoryview(bytearray(1 << 22))
    with path.open("rb", buffering=0) as file:
        while True:
            # Asked before reading: what is written in between is read in the next round.
            was_whole = whole.is_set()
            if size := file.readinto(memory):
                sha256.update(memory[:size])
            elif was_whole:
                return sha256.hexdigest()
            else:
                whole.wait(0.01)


@contextmanager
def _without_crc32() -> Iterator[None]:
    """Have torch.save leave out the checksums of its zip file, which nothing reads."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


class CheckpointFiles(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file, and moves it into place once it is on the disk.

    The checkpoint before it is kept under another name. Reading takes plain tensors and numbers,
    never a pickled object.
    """

    def __init__(self) -> None:
        self.read: Path | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            InputError: it cannot be written, as on a full disk; the old one stays.
        """
        path = Path(path)
        make_folder(path.parent)
        with replaced(path) as file, ThreadPoolExecutor(1) as thread, _without_crc32():
            watched = _Watched(file)
            whole = Event()
            digest = thread.submit(_digest, Path(file.name), whole)
            try:
                # torch's types ask for a whole file object; it only writes.
                torch.save(checkpoint, watched)  # type: ignore[arg-type]
                file.flush()
                whole.set()
                os.fsync(file.fileno())
            except RuntimeError as error:
                raise watched.error or error from None
            finally:
                whole.set()
            sha256 = digest.result()
            self._step_aside(path)
            _write_hash(path, sha256)
        self.read = None

    def _step_aside(self, path: Path) -> None:
        """Keep the present checkpoint as the one before.

        The hash moves first. So one of the two is whole and has its own hash, at whatever point
        the machine stops. A checkpoint that could not be read does not replace the good one from
        which the run resumed.
        """
        aside = _before(path)
        if path.exists() and self.read != aside:
            if _hash_file(path).exists():
                text = _hash_file(path).read_text(encoding="utf-8")
                _write_hash(aside, text.partition(" ")[0])
            else:
                # The hash of an older checkpoint must not stay.
                _hash_file(aside).unlink(missing_ok=True)
            os.replace(path, aside)

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        self.read = Path(path)
        return dict(torch.load(path, map_location=map_location, weights_only=True))


def _write_hash(path: Path, sha256: str) -> None:
    write_text(_hash_file(path), f"{sha256}  {path.name}\n")
