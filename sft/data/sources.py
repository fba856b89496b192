"""Where records come from: the embedded file, the user's own, or a download.

To add a data set on the web, add a file to `conf/data/`.
"""

import hashlib
import json
import os
import random
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from sft.atomic import sha256_of
from sft.config.rules import NO_PATH
from sft.config.schema import DataConfig
from sft.data.cache import Arrays, cache_folder, cached
from sft.data.records import Record, stream_records
from sft.download import fetch_rest
from sft.errors import InputError
from sft.network import unreachable

# Smaller files, in bytes, are not cached: they are read and tokenised in about half a second.
SMALL = 4 << 20

EMBEDDED = {"nano": Path(__file__).parents[1] / "miniature" / "nano.json"}


@dataclass(frozen=True)
class Source:
    """The file of a data set, and which of its records are used, in which order.

    Attributes:
        sha256: the hash of the file.
        chosen: the places of the records used.
        unused: keys in the file that are not read, and in how many of its records each is; the
            most frequent first.
    """

    path: Path
    sha256: str
    chosen: Sequence[int]
    unused: dict[str, int] = field(default_factory=dict)

    def stream(self) -> Iterator[Record]:
        """Yield the records one by one. Only a sample is held in memory.

        Raises:
            InputError: the file changed since it was hashed.
        """
        records = _stream(self.path, self.sha256, known=True)

        # A range is all records in file order; a sample has an order of its own.
        if isinstance(self.chosen, range):
            return records
        wanted = set(self.chosen)
        found = {index: record for index, record in enumerate(records) if index in wanted}
        return (found[index] for index in self.chosen)

    @cached_property
    def records(self) -> list[Record]:
        """The records, all in memory."""
        return list(self.stream())


def load_source(config: DataConfig, known: str | None = None) -> Source:
    """Find the file that `config` names, read it through once, and draw the sample.

    The cache keeps the number of records and the unused keys of a large file, under its hash.

    Args:
        known: the hash of a file that a run exists of; its keys are not refused.

    Raises:
        InputError: there is no such file, its download failed, or it holds something other than
            records. The message names the file and the record.
    """
    path = _locate(config)
    sha256 = _hash(path)
    downloaded = config.path is None and config.url is not None
    if downloaded and config.sha256 not in (None, sha256):
        raise InputError(
            f"{path}: sha256 {sha256}, expected {config.sha256}; "
            "delete the file, and it is downloaded again"
        )

    def read_through() -> Arrays:
        unused: Counter[str] = Counter()
        count = sum(1 for _ in _stream(path, sha256, unused=unused, known=sha256 == known))
        keys = json.dumps(dict(unused.most_common())).encode()
        return {"count": np.array([count]), "unused": np.frombuffer(keys, np.uint8)}

    # What was counted although a key would be refused is not for a new run.
    name = f"look-{'known-' if sha256 == known else ''}{sha256[:32]}"
    found = read_through() if is_small(path) else cached(name, read_through)
    [records] = found["count"].tolist()
    unused: dict[str, int] = json.loads(found["unused"].tobytes())

    if config.sample is None:
        return Source(path, sha256, range(records), unused)
    if config.sample > records:
        raise InputError(
            f"data.sample: {config.sample} of the {records} records in {path}: lower it"
        )
    chosen = random.Random(config.sample_seed).sample(range(records), config.sample)
    return Source(path, sha256, chosen, unused)


def is_small(path: Path) -> bool:
    """Whether a file of records is too small to be worth caching."""
    return path.stat().st_size < SMALL


def _locate(config: DataConfig) -> Path:
    # A saved run may have a path as well as a URL: the file was moved there since.
    if config.path is not None:
        return _regular(Path(config.path))
    if config.url is not None:
        return download(config.source, config.url, config.sha256)
    if config.source in EMBEDDED:
        return EMBEDDED[config.source]
    raise InputError(NO_PATH)


def _regular(path: Path) -> Path:
    """Return the path, unless it is a pipe or a device, which cannot be read twice."""
    kinds = {
        stat.S_ISFIFO: "a pipe",
        stat.S_ISCHR: "a device",
        stat.S_ISBLK: "a device",
        stat.S_ISSOCK: "a socket",
    }
    try:
        mode = path.stat().st_mode
    except OSError:
        # `_hash` opens the file, and explains what is wrong with it.
        return path
    for is_one, kind in kinds.items():
        if is_one(mode):
            raise InputError(
                f"{path}: {kind}, which cannot be read twice; "
                "write it to a file, and give data.path=FILE"
            )
    return path


def _hash(path: Path) -> str:
    try:
        return sha256_of(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give data.path= a JSON file of records") from None
    except IsADirectoryError:
        raise InputError(f"{path}: a folder, expected a JSON file of records") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _stream(
    path: Path,
    sha256: str | None = None,
    name: str | None = None,
    unused: Counter[str] | None = None,
    known: bool = False,
) -> Iterator[Record]:
    """Yield the records of a file; messages call it `name`.

    Raises:
        InputError: after the last record, the file's hash is not `sha256`.
    """
    with path.open("rb") as file:
        yield from stream_records(file, name or path, unused, known)
    if sha256 is not None and sha256_of(path) != sha256:
        raise InputError(f"{path}: changed while it was read; start again")


def download(name: str, url: str, sha256: str | None = None) -> Path:
    """Return the local copy of a data set, downloaded once; each URL has its own file in the cache.

    Raises:
        InputError: the URL cannot be reached, the download breaks off, or its hash is wrong.
    """
    target = cache_folder() / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}.json"
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)

        # The file gets its name only when it is whole, checked and on the disk.
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{name}-") as folder:
            partial = Path(folder) / target.name
            fetch_rest(url, partial, f"downloading {name}")
            _check(url, sha256, partial)
            os.replace(partial, target)
    except (OSError, ValueError) as error:
        # The errors of requests are OSErrors. A malformed header raises ValueError.
        reason = unreachable(error, url) or error
        raise InputError(
            f"{url}: the download failed ({reason}); "
            "try again, or use a file you have: data=json data.path=FILE"
        ) from error
    return target


def _check(url: str, sha256: str | None, path: Path) -> None:
    actual = _hash(path)
    if sha256 not in (None, actual):
        raise InputError(
            f"{url}: sha256 {actual}, expected {sha256}; "
            "something on the way changed the file, try again"
        )

    # A log-in page comes with status 200 too, so the records are read through.
    for _ in _stream(path, name=url):
        pass
