"""Progress: a bar in a terminal, and a line now and then in a log file."""

import io
import sys
import time
from typing import Any, TextIO

from tqdm import tqdm

# Seconds between two lines of a log file.
EVERY = 10.0


def redraws(file: TextIO) -> bool:
    """Return whether a bar can be drawn over itself: in a terminal, and in a notebook."""
    return file.isatty() or "ipykernel" in sys.modules


class Lines(io.TextIOBase):
    """A file for tqdm that gets a whole line every EVERY seconds, the first after that time."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.next = time.monotonic() + EVERY

    def write(self, text: str) -> int:
        # tqdm also writes blanks and codes that move a cursor, which a file must not get.
        # Where another bar is open, there are several.
        line = text.replace("\x1b[A", "").strip()
        if line and time.monotonic() >= self.next:
            self.file.write(f"{line}\n")
            self.file.flush()
            self.next = time.monotonic() + EVERY
        return len(text)


class Bar(tqdm):  # type: ignore[type-arg]
    """tqdm's bar, which becomes `Lines` where it cannot be redrawn."""

    def __init__(self, *arguments: Any, file: TextIO | None = None, **options: Any) -> None:
        file = file or sys.stderr
        if not redraws(file):
            # Without a width, tqdm writes the numbers alone.
            file = Lines(file)  # type: ignore[assignment]
            options["ncols"] = 0
        super().__init__(*arguments, file=file, **options)  # type: ignore[call-overload]
