"""What a run, or an evaluation, leaves about itself: strict JSON, and the versions that made it."""

import json
import math
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sft.config import InputError

PACKAGES = ("sft", "torch", "lightning", "hydra-core", "tiktoken", "safetensors", "huggingface_hub", "torchmetrics")


def make_folder(folder: Path) -> None:
    """Raises InputError if there can be none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made a folder ({error.strerror})") from error


def write_json(path: Path, content: Any) -> None:
    """Write strict JSON (what is not a number is null), whole or not at all; the error is that of `write_text`."""
    write_text(path, json.dumps(finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all; half of a surrogate pair, which is no character, becomes "?".

    Raises:
        InputError: it cannot be written, as on a full disk; what stood there stays.
    """
    fresh = path.with_name(f".{path.name}.part")
    try:
        with fresh.open("w", encoding="utf-8", errors="replace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written ({error.strerror}); what stood there is unchanged") from error


def finite(value: Any) -> Any:
    """The same content, with None for every number that is not finite."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
