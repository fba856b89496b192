"""`outputs/latest`, which leads to the newest run.

It is a symbolic link. Where links are not allowed, as often on Windows, it is a file that names the
run: one line, relative to the file's folder. Every command reads both.
"""

import logging
import os
from pathlib import Path

from sft.atomic import write_text
from sft.claims import say_once

log = logging.getLogger("sft")

LATEST = Path("outputs/latest")

# A longer file names no run.
LONGEST = 4096


def point(link: Path, folder: Path) -> None:
    """Make `link` lead to `folder` in one step; leave a folder or an unrelated file alone."""
    if link.exists() and not link.is_symlink() and _named_by(link) is None:
        log.warning(f"{link} is not a link, so it stays as it is")
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    target = Path(os.path.relpath(folder.resolve(), link.parent.resolve()))

    # On Windows a link to a folder cannot be replaced by another one in one move.
    if os.name != "nt":
        fresh = link.with_name(f".{link.name}-{os.getpid()}")
        try:
            fresh.symlink_to(target, target_is_directory=True)
        except OSError as error:
            log.debug(f"{link}: {error}")
        else:
            os.replace(fresh, link)
            return
    if link.is_symlink():
        link.unlink()
    write_text(link, f"{target.as_posix()}\n")


def followed(path: str | Path) -> Path:
    """Return a path in which a file `latest` is replaced by the run that it names.

    Any other path is returned as it is.
    """
    path = Path(path).expanduser()
    for part in (path, *path.parents):
        if part.name == LATEST.name and (run := _named_by(part)):
            return run / path.relative_to(part)
    return path


def _named_by(file: Path) -> Path | None:
    """Return the folder that a file `latest` names; None if it is not such a file."""
    try:
        if not file.is_file() or file.stat().st_size > LONGEST:
            return None
        name = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    run = file.parent / name
    return run if name and "\n" not in name and run.is_dir() else None


def warn_of_latest(name: str | Path) -> None:
    """Warn if a name lies in an `outputs/latest` that is a folder instead of a link.

    A copy of `outputs` without links has such a folder. New runs do not replace it, so it holds an
    old run.
    """
    latest = LATEST.absolute()
    named = Path(os.path.abspath(Path(name).expanduser()))
    if named.is_relative_to(latest) and latest.is_dir() and not latest.is_symlink():
        say_once(
            "warning: outputs/latest is a folder instead of a link, so it does not follow newer "
            "runs; name the run you mean, or move the folder away before you train again"
        )
