"""Commands as a user gives them, and how they end."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def line(command: Callable[..., None], *arguments: str) -> str:
    """Return the one line with which a command refuses its arguments."""
    with pytest.raises(SystemExit) as end:
        command(*arguments)

    # Python prints a text on stderr, and exits with 1.
    assert isinstance(end.value.code, str)
    assert "\n" not in end.value.code
    assert end.value.code.startswith("error: ")
    return end.value.code.removeprefix("error: ")


def python(
    *arguments: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS`, in which errors are one line."""
    own = {
        key: value
        for key, value in os.environ.items()
        if key not in ("HYDRA_FULL_ERROR", "SFT_ONE_LINE")
    }
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        env=own | environment,
    )
