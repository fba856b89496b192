"""The cache on disk: downloads, and arrays that are slow to make, which are mapped into memory."""

import hashlib
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from sft.atomic import locked

log = logging.getLogger(__name__)

# Raise it when the same name comes to mean other content.
VERSION = 2

Arrays = dict[str, NDArray[Any]]


def cache_folder() -> Path:
    """Return the folder of downloads and tokens: $SFT_CACHE, or `sft` in the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sft"
    return Path(os.environ.get("SFT_CACHE") or default)


def cached(name: str, make: Callable[[], Arrays]) -> Arrays:
    """Return the arrays of that name from the cache, or those that `make` returns.

    Cached arrays are mapped from a file, whose pages all processes of a machine share. If several
    processes ask at once, one calls `make` and the others wait. If nothing can be written, the
    arrays stay in memory.
    """
    path = cache_folder() / f"tokens-{VERSION}" / f"{name}.safetensors"

    # On a file system without locks, each process makes the arrays. That is safe too, since a file
    # is replaced as a whole.
    with locked(path.with_name(f"{path.name}.lock")):
        found = _read(path)
        return _write(make(), path) if found is None else found


def name_of(*parts: object) -> str:
    """Return the cache name of what is made from these values: a hash of them."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _read(path: Path) -> Arrays | None:
    """Map a file's arrays. Return None if it is missing, or its size contradicts its header."""
    try:
        if not path.exists():
            return None

        # With framework="np" safetensors would read the arrays. Torch tensors are mapped.
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        log.info(f"{path}: cannot be used ({error}); it is made again")
        return None


def _write(arrays: Arrays, path: Path) -> Arrays:
    """Write arrays to a file, and return them mapped from it, or as they are if that fails."""
    partial = path.with_name(f"{path.name}.{uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)

        # safetensors lets only the owner read its files. Give it the mode of any new file.
        partial.touch()
        mode = partial.stat().st_mode
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial)
        partial.chmod(mode)

        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        return _read(path) or arrays
    except (OSError, SafetensorError) as error:
        _log_once(f"{path.parent}: tokens cannot be cached there ({error}); they stay in memory")
        return arrays
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@lru_cache
def _log_once(message: str) -> None:
    log.info(message)
