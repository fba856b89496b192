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
from dataclasses import asdict, dataclass, field
from functools import cached_property
from glob import glob
from itertools import chain
from pathlib import Path

import numpy as np

from sft.atomic import sha256_of
from sft.config.rules import NO_PATH
from sft.config.schema import DataConfig
from sft.data.cache import Arrays, cache_folder, cached
from sft.data.formats import endings
from sft.data.records import Record, stream_records
from sft.download import fetch_rest
from sft.errors import InputError
from sft.network import unreachable

# Smaller files, in bytes, are not cached: they are read and tokenised in about half a second.
SMALL = 4 << 20

EMBEDDED = {"nano": Path(__file__).parents[1] / "miniature" / "nano.json"}


@dataclass(frozen=True)
class File:
    """A file of records, and the hash that it had when it was found."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class Source:
    """The files of a data set, and which of their records are used, in which order.

    Attributes:
        name: what messages and summaries call the data.
        files: the files, in the order in which they are read.
        sha256: the hash of the file; of several files, one hash of theirs, in their order.
        chosen: the places of the records used, counted through all files.
        unused: keys in the files that are not read, and in how many of the records each is; the
            most frequent first.
        notes: lines about the files that the user should read.
    """

    name: str
    files: tuple[File, ...]
    sha256: str
    chosen: Sequence[int]
    unused: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The file, or the first of several."""
        return self.files[0].path

    @property
    def is_small(self) -> bool:
        """Whether the files are too small to be worth caching."""
        return sum(file.path.stat().st_size for file in self.files) < SMALL

    def stream(self) -> Iterator[Record]:
        """Yield the records one by one. Only a sample is held in memory.

        Raises:
            InputError: a file changed since it was hashed.
        """
        records = chain.from_iterable(_stream(file, known=True) for file in self.files)

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
    """Find the files that `config` names, read them through once, and draw the sample.

    The cache keeps what was found in a large file, under its hash.

    Args:
        known: the hash of data that a run exists of; its keys are not refused.

    Raises:
        InputError: there is no such file, its download failed, or it holds something other than
            records. The message names the file and the record.
    """
    paths = _locate(config)
    files = tuple(File(path, _hash(path)) for path in paths)
    sha256 = _joint_hash(files)
    downloaded = config.path is None and config.url is not None
    if downloaded and config.sha256 not in (None, sha256):
        raise InputError(
            f"{paths[0]}: sha256 {sha256}, expected {config.sha256}; "
            "delete the file, and it is downloaded again"
        )

    unused: Counter[str] = Counter()
    notes: list[str] = []
    count = 0
    for file in files:
        found = _look(file, known=sha256 == known)
        count += found.records
        unused.update(found.unused)
        if found.lists:
            held = ", ".join(f"{length:,} in {key!r}" for key, length in found.lists.items())
            notes.append(f"{file.path}: the records are in lists of one object: {held}")
    unused = Counter(dict(unused.most_common()))
    name = str(paths[0])
    if len(files) > 1:
        name = f"{paths[0].parent}: {len(files)} files"

    chosen: Sequence[int] = range(count)
    if config.sample is not None:
        if config.sample > count:
            raise InputError(
                f"data.sample: {config.sample} of the {count} records in {name}: lower it"
            )
        chosen = random.Random(config.sample_seed).sample(range(count), config.sample)
    return Source(name, files, sha256, chosen, dict(unused), tuple(notes))


def _joint_hash(files: Sequence[File]) -> str:
    """Return one hash of files in their order; the hash of a single file is its own."""
    if len(files) == 1:
        return files[0].sha256
    return hashlib.sha256("\n".join(file.sha256 for file in files).encode()).hexdigest()


# What is in a file


@dataclass(frozen=True)
class Contents:
    """The number of records in a file, its unused keys, and the lists of its wrapper if any."""

    records: int
    unused: dict[str, int]
    lists: dict[str, int]


def _look(file: File, known: bool) -> Contents:
    """Read a file through once, or find in the cache what was in it."""

    def read_through() -> Arrays:
        unused: Counter[str] = Counter()
        lists: dict[str, int] = {}
        count = sum(1 for _ in _stream(file, unused=unused, known=known, lists=lists))
        content = json.dumps(asdict(Contents(count, dict(unused.most_common()), lists)))
        return {"contents": np.frombuffer(content.encode(), np.uint8)}

    # What was counted although a key would be refused is not for a new run.
    name = f"contents-{'known-' if known else ''}{file.sha256[:32]}"
    small = file.path.stat().st_size < SMALL
    found = read_through() if small else cached(name, read_through)
    return Contents(**json.loads(found["contents"].tobytes()))


# Which files


def _locate(config: DataConfig) -> list[Path]:
    # A saved run may have a path as well as a URL: the file was moved there since.
    if config.path is not None:
        return _files_of(config.paths())
    if config.url is not None:
        return [download(config.source, config.url, config.sha256)]
    if config.source in EMBEDDED:
        return [EMBEDDED[config.source]]
    raise InputError(NO_PATH)


def _files_of(paths: Sequence[str]) -> list[Path]:
    """Return the files that the paths name; the files of a folder or a pattern by their names.

    Raises:
        InputError: a path names no file, or a file is named twice.
    """
    found = [file for path in paths for file in _files_at(path)]
    if twice := [file for file, count in Counter(found).items() if count > 1]:
        raise InputError(f"data.path: {twice[0]} is named twice; leave out one of them")
    return found


def _files_at(path: str) -> list[Path]:
    place = Path(path)
    if place.is_dir():
        found = [file for file in place.iterdir() if file.name.lower().endswith(endings())]
        files = [file for file in sorted(found) if file.is_file() and file.name[0] != "."]
        if not files:
            raise InputError(
                f"{path}: a folder without a file of records, "
                f"which would end in one of {', '.join(endings())}"
            )
        return files
    if not os.path.lexists(path) and any(sign in path for sign in "*?["):
        files = sorted(Path(name) for name in glob(path, recursive=True) if os.path.isfile(name))
        if not files:
            raise InputError(f"data.path: no file is named like {path}")
        return files
    return [_regular(place)]


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
        raise InputError(f"{path}: no such file; give data.path= a file of records") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _stream(
    file: File,
    name: str | None = None,
    unused: Counter[str] | None = None,
    known: bool = False,
    lists: dict[str, int] | None = None,
) -> Iterator[Record]:
    """Yield the records of a file; messages call it `name`.

    Raises:
        InputError: after the last record, the file has another hash than before.
    """
    with file.path.open("rb") as content:
        yield from stream_records(content, name or file.path, unused, known, lists)
    if sha256_of(file.path) != file.sha256:
        raise InputError(f"{file.path}: changed while it was read; start again")


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
            "try again, or use a file you have: data=file data.path=FILE"
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
    for _ in _stream(File(path, actual), name=url):
        pass
