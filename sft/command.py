"""Start and end of a command without Hydra, such as `python -m sft.chat`.

The doors with Hydra, in sft/launch.py, end in the same way.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import NoReturn, get_args

from sft.config.schema import AnswerPrecisionName, Device
from sft.cpus import bound_waiting
from sft.errors import InputError
from sft.logs import prepare_streams, visible

# Whether the user wants tracebacks. `run` itself sets HYDRA_FULL_ERROR, and the processes that it
# starts inherit that. SFT_ONE_LINE tells them that the user did not set it.
FULL_ERROR = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0") and not os.environ.get(
    "SFT_ONE_LINE"
)

# OpenMP reads this when torch is imported, which every door does later than this file.
bound_waiting()


def command(main: Callable[[], None]) -> None:
    """Call the main function of a door without Hydra. Show an InputError or OSError as one line."""
    prepare_streams()
    try:
        main()
    except BrokenPipeError:
        end_unread()
    except (InputError, OSError) as error:
        if FULL_ERROR:
            raise
        sys.exit(f"error: {on_one_line(error)}")


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Import torch, and what needs it, without the garbage collector: a fifth faster.

    The imports make about a million objects, none of which is garbage, and the collector would
    look through all of them many times. Once frozen, they are never looked at again. Where torch
    is imported already there is nothing to gain, and a run's own objects must not be frozen.
    """
    if "torch" in sys.modules:
        yield
        return

    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def require(extra: str, use: str, *packages: str) -> None:
    """Raise InputError if a package is missing that only some users need.

    Args:
        extra: of pyproject.toml, which brings the packages.
        use: what needs them.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise InputError(
            f"{use} needs {' and '.join(missing)}, not installed here; pip install "
            f"{' '.join(packages)}, or this package with its extra [{extra}]"
        )


def add_placement(parser: argparse.ArgumentParser) -> None:
    """Add the options of a door that loads models: the device, and the precision."""
    parser.add_argument("--device", choices=get_args(Device), default="auto")
    parser.add_argument("--precision", choices=get_args(AnswerPrecisionName), default="auto")


def end_unread() -> NoReturn:
    """Exit in silence, with the code of SIGPIPE, when the output's reader is gone (`| head -1`)."""
    # Python flushes its output at the end, and would fail again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    # Windows has no signal.SIGPIPE.
    sys.exit(128 + 13)


def on_one_line(error: BaseException) -> str:
    return visible(" ".join(str(error).splitlines()))
