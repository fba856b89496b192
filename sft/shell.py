"""Command lines and paths in messages, written so that they can be pasted."""

import os
import re
import shlex
from pathlib import Path

# A value that Hydra reads as text without quotes, unless it is `_special`.
PLAIN = re.compile(r"[A-Za-z0-9_./@%+?|\-]+")


def override(key: str, value: str | Path) -> str:
    """Return `key=value` as Hydra takes it, quoted for its grammar where that is needed."""
    text = str(value)
    if PLAIN.fullmatch(text) and not _special(text):
        return f"{key}={text}"

    # Hydra reads backslashes as escapes only before its quote, which also ends the text.
    text = re.sub(r"(\\*)'", r"\1\1\\'", text)
    text = re.sub(r"(\\+)$", r"\1\1", text)
    return f"{key}='{text}'"


def setting(key: str, value: str | Path) -> str:
    """Return `key=value` for a command line: quoted for Hydra, and then for the shell."""
    text = override(key, value)

    # Double quotes around Hydra's single ones are easier to read than what shlex makes of them.
    if "'" in text and not re.search(r'["$`\\!]', text):
        return f'{key}="{text.removeprefix(f"{key}=")}"'
    return shlex.quote(text)


def shown(path: Path) -> str:
    """Return a path from the working folder, or the whole path if it lies outside of it."""
    relative = os.path.relpath(path)
    outside = Path(relative).parts[:1] == (os.pardir,)
    return os.path.abspath(path) if outside else relative


def _special(text: str) -> bool:
    """Whether Hydra would read the text as a number or a constant."""
    try:
        float(text)
    except ValueError:
        return text.lower() in ("null", "true", "false")
    return True
