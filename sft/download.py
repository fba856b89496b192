"""Download a file: a progress bar, and a partial download continues where it stopped.

Files of the Hugging Face Hub are downloaded by its own client, and hashed here.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from sft.atomic import sha256_of
from sft.bars import Bar
from sft.errors import InputError

if TYPE_CHECKING:
    import requests

# An ETag that is a hash: SHA-1 or SHA-256.
HASH = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


def fetch_rest(url: str, part: Path, label: str) -> int | None:
    """Append to `part` the bytes that it lacks of the file at `url`.

    Args:
        label: text before the progress bar.

    Returns:
        The file's size as the server gives it. None: the server does not say, so missing bytes go
        unnoticed.

    Raises:
        OSError: the server cannot be reached, refuses, or breaks off. Errors of requests are among
            them. `part` stays, so that the next call continues, unless it is too long.
        ValueError: a header of the server's answer is malformed.
    """
    # Most commands fetch nothing, and need not wait for this import.
    import requests

    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(url, headers=headers, stream=True, timeout=30) as response:
        # Status 416 says that there is nothing after `have`.
        if response.status_code != 416:
            response.raise_for_status()

            # Status 206 is the rest. With 200 the file comes from its beginning.
            if response.status_code != 206:
                have = 0
            length = response.headers.get("Content-Length")
            total = have + int(length) if length else None
            bar = Bar(total=total, initial=have, unit="B", unit_scale=True, desc=label)
            with bar, part.open("ab" if have else "wb") as file:
                for chunk in response.iter_content(1 << 16):
                    bar.update(file.write(chunk))
                file.flush()
                os.fsync(file.fileno())
        size = _whole_size(response)

    if size is not None:
        _check_size(part, size)
    return size


def _whole_size(response: requests.Response) -> int | None:
    """Return the size of the whole file, of which only a part may have been sent.

    RFC 9110, 14.4: `Content-Range: bytes 500-999/1000`, or with status 416 `bytes */1000`. The size
    of a compressed transfer, or of a refusal, says nothing about the file.
    """
    headers = response.headers
    if headers.get("Content-Encoding", "identity") != "identity":
        return None
    size = headers.get("Content-Range", "").rpartition("/")[2]
    if not size and response.status_code != 416:
        size = headers.get("Content-Length", "")
    return int(size) if size.isdigit() else None


def _check_size(part: Path, expected: int) -> None:
    found = part.stat().st_size
    if found > expected:
        part.unlink()
        raise OSError(f"expected {expected} bytes, found {found}, which were deleted")
    if found < expected:
        raise OSError(f"it broke off after {found} of {expected} bytes")


def check_arrived(path: Path, remedy: str, sha256: str | None = None) -> None:
    """Hash a file that is new in the hub's cache, and delete it if the hash is wrong.

    The cache keeps each file under its ETag, a hash of the content: SHA-256 for large files, git's
    blob hash for small ones (huggingface_hub, "Understand caching"). Over plain HTTP the client
    compares sizes alone.

    Args:
        remedy: what to do, for the message.
        sha256: the hash that the file must also have, if it is known.

    Raises:
        InputError: the hash is wrong.
    """
    # Where there are no symbolic links, the cache does not keep the ETag.
    etag = path.readlink().name if path.is_symlink() else ""
    for expected in (sha256, etag):
        if not expected or not HASH.fullmatch(expected):
            continue
        actual = sha256_of(path) if len(expected) == 64 else _git_hash_of(path)
        if actual != expected:
            blob = path.parent / path.readlink() if etag else path
            for part in (path.resolve(), blob, path):
                part.unlink(missing_ok=True)
            raise InputError(
                f"{path.name}: arrived damaged and was deleted: expected hash {expected}, found "
                f"{actual}; {remedy}"
            )


def _git_hash_of(path: Path) -> str:
    """Return git's hash of a file, a SHA-1 of a header and the content (Pro Git, 10.2)."""
    header = b"blob %d\0" % path.stat().st_size
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.sha1(header)).hexdigest()
