"""What took time to make, kept on disk for the next start: downloads, and arrays that are mapped into memory."""

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

VERSION = 1  # to be raised when the same name comes to mean something else

Arrays = dict[str, NDArray[Any]]


def cache_folder() -> Path:
    """Where downloads and tokens are kept: $SFT_CACHE, or `sft` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sft"
    return Path(os.environ.get("SFT_CACHE") or default)


def cached(name: str, make: Callable[[], Arrays]) -> Arrays:
    """What `make` gives; it is called only if the cache holds nothing of that name.

    The arrays are then pages of a file, which the processes of this machine share and which take no memory of their
    own. Of several processes that want the same at once, one makes it and the others wait. Where nothing can be
    kept, the arrays stay in memory.
    """
    path = cache_folder() / f"tokens-{VERSION}" / f"{name}.safetensors"
    with locked(
        path.with_name(f"{path.name}.lock")
    ):  # without locks each makes it, and whole files take turns
        found = _mapped(path)
        return _kept(make(), path) if found is None else found


def _mapped(path: Path) -> Arrays | None:
    """The arrays in a file; None if there is none, or if its header and its size do not fit each other."""
    try:
        if not path.exists():
            return None
        with safe_open(path, framework="pt") as file:  # as torch tensors they are mapped, not read
            return {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        log.info(f"{path}: cannot be used ({error}); it is made again")
        return None


def _kept(arrays: Arrays, path: Path) -> Arrays:
    partial = path.with_name(f"{path.name}.{uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        mode = partial.stat().st_mode
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial)
        partial.chmod(mode)  # safetensors lets only the owner read it
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        return _mapped(path) or arrays
    except (OSError, SafetensorError) as error:
        _tell_once(f"{path.parent}: tokens cannot be kept there ({error}); they stay in memory")
        return arrays
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@lru_cache
def _tell_once(message: str) -> None:
    log.info(message)
