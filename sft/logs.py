"""The output on the terminal and in log files: standard streams, log handlers, visible text."""

import io
import logging
import os
import re
import sys
from pathlib import Path

from tqdm import tqdm

from sft.atomic import writing

# Characters that control a terminal instead of being shown. These are all controls but tab and line
# feed, and those that reorder the text around them (Unicode Standard Annex 9, "Explicit Directional
# Embeddings", "... Isolates").
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """Replace control characters by their escapes.

    A record or an answer that is printed could otherwise control the terminal.
    """
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def prepare_streams() -> None:
    """Keep a letter that cannot be encoded, or a closed stream, from ending the process.

    Redirected output is often not UTF-8 (on Windows it is cp1252). A letter that the encoding lacks
    is replaced. A stream that is closed becomes an empty one.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and stream.errors != "replace":
            stream.reconfigure(errors="replace")


def log_to(path: Path) -> None:
    """Log to the terminal and to a file, which is made at the first message.

    Only rank 0 logs. The other ranks would repeat it.
    """
    log = logging.getLogger("sft")
    log.handlers.clear()
    log.setLevel(logging.INFO)
    log.propagate = False
    if os.environ.get("RANK", "0") != "0":
        log.addHandler(logging.NullHandler())
        return

    file = FileHandler(path, delay=True, encoding="utf-8", errors="replace")
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(file)
    log.addHandler(TerminalHandler())


class FileHandler(logging.FileHandler):
    """Writes to a log file, and raises InputError if it cannot, as on a full disk.

    The handler of `logging` would print a traceback for each message and go on.
    """

    def emit(self, record: logging.LogRecord) -> None:
        with writing(Path(self.baseFilename)):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        raise


class TerminalHandler(logging.Handler):
    """Prints above a progress bar instead of through it, with control characters made visible."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(visible(self.format(record)))
