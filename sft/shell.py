"""Command lines in messages, quoted so that they can be pasted."""

import re
import shlex
from pathlib import Path

# A value that Hydra reads as text without quotes, unless it is `_special`.
PLAIN = re.compile(r"[A-Za-z0-9_./@%+?|\-]+")


def setting(key: str, value: str | Path) -> str:
    """Return `key=value` for a command of Hydra's: quoted for its grammar where that is needed, then for the shell."""
    text = str(value)
    if not PLAIN.fullmatch(text) or _special(text):
        # Hydra reads backslashes as escapes only before its quote, which also ends the text.
        text = re.sub(r"(\\*)'", r"\1\1\\'", text)
        text = re.sub(r"(\\+)$", r"\1\1", text)
        text = f"'{text}'"
    quoted = shlex.quote(f"{key}={text}")

    # Double quotes around Hydra's single ones are easier to read than what shlex makes of them.
    readable = "'" in text and not re.search(r'["$`\\!]', text)
    return f'{key}="{text}"' if readable else quoted


def _special(text: str) -> bool:
    """Whether Hydra would read the text as a number or a constant."""
    try:
        float(text)
    except ValueError:
        return text.lower() in ("null", "true", "false")
    return True
