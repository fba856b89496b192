"""Where records come from: the embedded file, the user's own, or a download. To add one, add a file to `conf/data/`."""

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

from sft.config.schema import DataConfig
from sft.data.cache import Arrays, cache_folder, cached
from sft.data.records import Record, stream_records
from sft.download import fetch_rest
from sft.errors import InputError
from sft.network import unreachable

SMALL = 4 << 20  # bytes; read and tokenised in about half a second
EMBEDDED = {"nano": Path(__file__).parents[1] / "miniature" / "nano.json"}


@dataclass(frozen=True)
class Source:
    """The file of a data set, its hash, and which of its records are used, in which order.

    Attributes:
        unused: keys in the file that are not read, and in how many of its records they are; the commonest first.
    """

    path: Path
    sha256: str
    chosen: Sequence[int]
    unused: dict[str, int] = field(default_factory=dict)

    def stream(self) -> Iterator[Record]:
        """The records one by one; in memory are those of a sample, else none.

        Raises:
            InputError: the file is not the one that was hashed.
        """
        records = _stream(self.path, self.sha256)
        if isinstance(self.chosen, range):  # all, in file order
            return records
        wanted = set(self.chosen)
        found = {index: record for index, record in enumerate(records) if index in wanted}
        return (found[index] for index in self.chosen)

    @cached_property
    def records(self) -> list[Record]:
        return list(self.stream())


def load_source(config: DataConfig) -> Source:
    """Find the records that `config` asks for, sampled if it says so, and read them through once.

    Of a large file that was read before, which its hash tells, the number of records and the keys are in the cache.

    Raises:
        InputError: no such file, a broken download, not JSON, a record that is none; by file and record.
    """
    path = _locate(config)
    sha256 = _hash(path)
    if config.path is None and config.url is not None and config.sha256 not in (None, sha256):
        raise InputError(
            f"{path}: sha256 {sha256}, expected {config.sha256}; delete the file, it is downloaded anew"
        )

    def look() -> Arrays:
        unused: Counter[str] = Counter()
        count = sum(1 for _ in _stream(path, sha256, unused=unused))
        keys = json.dumps(dict(unused.most_common())).encode()
        return {"count": np.array([count]), "unused": np.frombuffer(keys, np.uint8)}

    found = look() if is_small(path) else cached(f"look-{sha256[:32]}", look)
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
    """Whether a file of records is read and tokenised sooner than the cache is asked."""
    return path.stat().st_size < SMALL


def _locate(config: DataConfig) -> Path:
    if config.path is not None:  # beside a URL, or a name: where a run finds the same file now
        return _regular(Path(config.path))
    if config.url is not None:
        return download(config.source, config.url, config.sha256)
    if config.source in EMBEDDED:
        return EMBEDDED[config.source]
    raise InputError(
        "data.path: missing; data=json needs data.path=FILE, a JSON array or JSON Lines"
    )


def _regular(path: Path) -> Path:
    """The path itself, unless it is a pipe or a device, which could be read but once, or without an end."""
    kinds = {
        stat.S_ISFIFO: "a pipe",
        stat.S_ISCHR: "a device",
        stat.S_ISBLK: "a device",
        stat.S_ISSOCK: "a socket",
    }
    try:
        mode = path.stat().st_mode
    except OSError:  # said where it is opened
        return path
    for is_one, kind in kinds.items():
        if is_one(mode):
            raise InputError(
                f"{path}: {kind}, which cannot be read again; write it to a file, and give data.path=FILE"
            )
    return path


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
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
) -> Iterator[Record]:
    """A file's records; with `sha256` given, its hash is compared at the end. Errors call the file `name`."""
    with path.open("rb") as file:
        yield from stream_records(file, name or path, unused)
        file.seek(0)
        if sha256 not in (None, hashlib.file_digest(file, "sha256").hexdigest()):
            raise InputError(f"{path}: changed while it was read; start again")


def download(name: str, url: str, sha256: str | None = None) -> Path:
    """The local copy of a data set, fetched once; each URL has a file of its own in the cache.

    Raises:
        InputError: it cannot be reached, breaks off, or is not the file that was pinned.
    """
    target = cache_folder() / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}.json"
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{name}-") as folder:
            partial = Path(folder) / target.name
            fetch_rest(url, partial, f"downloading {name}")
            _check(url, sha256, partial)
            os.replace(partial, target)
    except (
        OSError,
        ValueError,
    ) as error:  # requests' errors are OSErrors too; ValueError: of a header
        reason = unreachable(error, url) or error
        raise InputError(
            f"{url}: the download failed ({reason}); try again, or use a file you have: data=json data.path=FILE"
        ) from error
    return target


def _check(url: str, sha256: str | None, path: Path) -> None:
    actual = _hash(path)
    if sha256 not in (None, actual):
        raise InputError(
            f"{url}: sha256 {actual}, expected {sha256}; something on the way changed the file, try again"
        )
    for _ in _stream(path, name=url):  # a login page is not a data set
        pass
