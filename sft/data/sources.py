"""The sources of records: the embedded file, the user's own, the hub, or a download.

To add a data set on the web, add a file to `conf/data/`.
"""

import hashlib
import json
import os
import random
import stat
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from glob import glob
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sft.atomic import sha256_of
from sft.config.rules import NO_PATH
from sft.config.schema import DataConfig
from sft.data.cache import Arrays, cache_folder, cached, name_of
from sft.data.formats import endings
from sft.data.records import Contents, Record, stream_records
from sft.download import fetch_rest
from sft.errors import InputError
from sft.network import unreachable

# Smaller files, in bytes, are not cached: they are read and tokenised in about half a second.
SMALL = 4 << 20

Indices = NDArray[np.int64]

# With more categories than this, a file does not count as sorted by them.
MOST_CATEGORIES = 1000

# The splits that may have files of their own, in the order in which these are read.
OWN = ("test", "validation")

EMBEDDED = {"nano": Path(__file__).parents[1] / "miniature" / "nano.json"}


@dataclass(frozen=True)
class File:
    """A file of records.

    Attributes:
        sha256: the hash that it had when it was found.
        split: the split that it is given for; None: its records are divided among the splits.
        entry: the number of the path in data.path that it comes from.
    """

    path: Path
    sha256: str
    split: str | None = None
    entry: int = 0


@dataclass(frozen=True)
class Block:
    """Records that lie one after the other.

    Attributes:
        records: how many.
        split: the split that they are given for, as a file of its own or as a list in a wrapper;
            None: they are divided among the splits.
        entry: the number of the path in data.path that they come from.
    """

    records: int
    split: str | None = None
    entry: int = 0


@dataclass(frozen=True)
class Source:
    """The files of a data set, and which of their records are used, in which order.

    Attributes:
        name: what messages and summaries call the data.
        files: the files, in the order in which they are read.
        sha256: the hash of the file. For several files, it is one hash of all their hashes in
            order.
        chosen: the places of the records used, counted through all files.
        blocks: the records of all files, in the order of their places.
        is_sorted: whether records with the same category lie together.
        revision: the commit of a data set of the hub; None for all others.
        unused: keys in the files that are not read, and in how many of the records each is; the
            most frequent first.
        notes: lines about the files that the user should read.
        fields: the user's own keys of a record.
        contents: what was found in each of the files.
        difficulties: for each record used a score, the highest first, if `data.keep_by=ifd` chooses
            among them. A model measures them (`sft.evaluation.ifd`).
    """

    name: str
    files: tuple[File, ...]
    sha256: str
    chosen: Sequence[int]
    blocks: tuple[Block, ...]
    unused: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    fields: dict[str, str] | None = None
    contents: tuple[Contents, ...] = ()
    is_sorted: bool = False
    revision: str | None = None
    difficulties: NDArray[np.float64] | None = None

    @property
    def path(self) -> Path:
        """The file, or the first of several."""
        return self.files[0].path

    @property
    def keys(self) -> list[str]:
        """The keys that are read."""
        return list(dict.fromkeys(key for found in self.contents for key in found.keys))

    @property
    def conversations(self) -> bool:
        """Whether a record has turns before its last question."""
        return any(found.conversations for found in self.contents)

    @property
    def identity(self) -> tuple[str, Sequence[int]]:
        """The hash of the files and the places of the records: what every record follows from."""
        read_by = f" {self.fields}" if self.fields else ""
        return f"{self.sha256}{read_by}", self.chosen

    @property
    def is_small(self) -> bool:
        """Whether the files are too small to be worth caching."""
        return sum(file.path.stat().st_size for file in self.files) < SMALL

    def rows_of(self, split: str | None) -> Indices:
        """Return the rows that are given for this split; for None, the rows to divide."""
        given = [block.split == split for block in self.blocks]
        places = np.repeat(given, [block.records for block in self.blocks])
        return np.flatnonzero(places[np.asarray(self.chosen)])

    def entries(self) -> Indices:
        """Return for each record used the number of its path in data.path."""
        numbers = [block.entry for block in self.blocks]
        places = np.repeat(numbers, [block.records for block in self.blocks])
        found: Indices = places[np.asarray(self.chosen)]
        return found

    def measured(self, name: str, measure: Callable[[Iterator[Record]], Iterable[int]]) -> Indices:
        """Return a number for each record used, in one pass; of large files from the cache.

        Args:
            name: of the measure, in the cache.
        """

        def make() -> Arrays:
            return {"numbers": np.fromiter(measure(self.stream()), np.int64)}

        found = make() if self.is_small else cached(name_of(name, *self.identity), make)
        return found["numbers"]

    def stream(self) -> Iterator[Record]:
        """Yield the records one by one. Only a sample is held in memory.

        Raises:
            InputError: a file changed since it was hashed.
        """
        records = chain.from_iterable(
            _stream(file, fields=self.fields, known=True) for file in self.files
        )

        # A range is all records in file order; a sample has an order of its own.
        if isinstance(self.chosen, range):
            return records
        wanted = set(self.chosen)
        found = {index: record for index, record in enumerate(records) if index in wanted}
        return (found[index] for index in self.chosen)

    def pick(self, rows: Indices) -> list[Record]:
        """Return the records at some places among those used. The others are not kept in memory."""
        wanted = set(rows.tolist())
        found = {row: record for row, record in enumerate(self.stream()) if row in wanted}
        return [found[row] for row in rows.tolist()]

    @cached_property
    def records(self) -> list[Record]:
        """The records, all in memory."""
        return list(self.stream())


def load_source(config: DataConfig, known: str | None = None, commit: str | None = None) -> Source:
    """Find the files that `config` names, read them through once, and draw the sample.

    The cache keeps what was found in a large file, under its hash.

    Args:
        known: the hash of the data of an existing run. Its keys are not refused.
        commit: that data's commit on the hub.

    Raises:
        InputError: there is no such file, its download failed, or it holds something other than
            records. The message names the file and the record.
    """
    revision = None
    if config.source == "hub":
        # huggingface_hub is imported only where it is needed.
        from sft.data.hub import fetch_data

        fetched, revision = fetch_data(config, commit)
        entries = [fetched]
    else:
        entries = _locate(config)
    files = _files(config, entries)
    sha256 = _joint_hash(files)
    downloaded = config.path is None and config.url is not None
    if downloaded and config.sha256 not in (None, files[0].sha256):
        raise InputError(
            f"{files[0].path}: sha256 {files[0].sha256}, expected {config.sha256}; "
            "delete the file, and it is downloaded again"
        )

    # Read the files.
    unused: Counter[str] = Counter()
    blocks: list[Block] = []
    notes: list[str] = []
    contents: list[Contents] = []
    for file in files:
        found = _look(file, config.fields, known=sha256 == known)
        contents.append(found)
        unused.update(found.unused)
        blocks += _blocks(found, file, config)
        if found.lists:
            held = ", ".join(f"{length:,} in {key!r}" for key, length in found.lists.items())
            notes.append(f"{file.path}: the records are in one object: {held}")

    # Name the data after the files whose records are divided among the splits.
    divided = [file for file in files if file.split is None]
    name = str(files[0].path)
    if len(divided) > 1:
        name = f"{files[0].path.parent} ({len(divided)} files)"
    if config.source == "hub":
        [name] = config.paths()
        shown = ", ".join(file.path.name for file in divided[:3])
        more = f" and {len(divided) - 3} more" if len(divided) > 3 else ""
        notes.insert(0, f"{name} at commit {revision}: {shown}{more}")

    return Source(
        name,
        files,
        sha256,
        _chosen(config, blocks, name),
        tuple(blocks),
        dict(unused.most_common()),
        tuple(notes),
        config.fields,
        tuple(contents),
        is_sorted=len(divided) == 1 and contents[0].is_sorted,
        revision=revision,
    )


def _blocks(found: Contents, file: File, config: DataConfig) -> list[Block]:
    """Return the blocks of a file. Only a file of data.path may hold the lists of several splits.

    Raises:
        InputError: such lists are in a file that is given for one split, or a split has both a list
            and a file.
    """
    if len(found.lists) < 2:
        return [Block(found.records, file.split, file.entry)]
    if file.split is not None:
        held = ", ".join(found.lists)
        raise InputError(
            f"data.{file.split}: {file.path} holds lists for {held}; give it as data.path"
        )
    blocks = []
    for name, length in found.lists.items():
        if name in OWN and getattr(config, name):
            raise InputError(
                f"data.{name}: {file.path} holds a list for {name} too; give one of them"
            )
        blocks.append(Block(length, name if name in OWN else None, file.entry))
    return blocks


def _chosen(config: DataConfig, blocks: Sequence[Block], name: str) -> Sequence[int]:
    """Return the places of the records used: all, or a sample of those to be divided."""
    count = sum(block.records for block in blocks)
    if config.sample is None:
        return range(count)
    given = np.repeat([block.split is not None for block in blocks], [b.records for b in blocks])
    divided = np.flatnonzero(~given).tolist()
    if config.sample > len(divided):
        raise InputError(
            f"data.sample: {config.sample} of the {len(divided)} records in {name}: lower it"
        )
    sample = random.Random(config.sample_seed).sample(divided, config.sample)
    return sample + np.flatnonzero(given).tolist()


def _joint_hash(files: Sequence[File]) -> str:
    """Return one hash of files in their order; the hash of a single file is its own."""
    if len(files) == 1:
        return files[0].sha256
    lines = [f"{file.split} {file.sha256}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


# What is in a file


def _look(file: File, fields: dict[str, str] | None, known: bool) -> Contents:
    """Read a file through once, or find in the cache what was in it."""

    def read_through() -> Arrays:
        contents = Contents()
        runs = 0
        categories: set[str | None] = set()
        last: str | None = None
        for record in _stream(file, fields=fields, known=known, contents=contents):
            runs += contents.records == 1 or record.category != last
            last = record.category
            if len(categories) < MOST_CATEGORIES:
                categories.add(last)
        contents.is_sorted = 1 < len(categories) == runs < contents.records
        contents.unused = Counter(dict(contents.unused.most_common()))
        return {"contents": np.frombuffer(json.dumps(vars(contents)).encode(), np.uint8)}

    # With `known`, a key that a new run refuses was counted, so a new run does not read this.
    read_by = f"-{hashlib.sha256(repr(fields).encode()).hexdigest()[:12]}" if fields else ""
    name = f"contents-{'known-' if known else ''}{file.sha256[:32]}{read_by}"
    small = file.path.stat().st_size < SMALL
    found = read_through() if small else cached(name, read_through)
    return Contents(**json.loads(found["contents"].tobytes()))


# Which files


def _locate(config: DataConfig) -> list[list[Path]]:
    """Return the files of each entry of data.path, or the one file of a data set by name."""
    # A saved run may have a path as well as a URL: the file was moved there since.
    if config.path is not None:
        return [_files_at(path, "path") for path in config.paths()]
    if config.url is not None:
        return [[download(config.source, config.url, config.sha256)]]
    if config.source in EMBEDDED:
        return [[EMBEDDED[config.source]]]
    raise InputError(NO_PATH)


def _files(config: DataConfig, entries: Sequence[Sequence[Path]]) -> tuple[File, ...]:
    """Hash the files of data.path, then those of the splits that have files of their own."""
    found = [("path", entry, path) for entry, paths in enumerate(entries) for path in paths]
    for split in OWN:
        if own := getattr(config, split):
            found += [(split, 0, path) for path in _files_at(own, split)]
    _check_twice([path for _, _, path in found])
    return tuple(
        File(path, _hash(path, key), None if key == "path" else key, entry)
        for key, entry, path in found
    )


def _check_twice(paths: Sequence[Path]) -> None:
    """Raise InputError for a file that is named twice: its records would be in two splits."""
    if twice := [path for path, count in Counter(paths).items() if count > 1]:
        raise InputError(f"data.path: {twice[0]} is named twice; leave out one of them")


def _files_at(path: str, key: str) -> list[Path]:
    """Return the files that a path names; those of a folder or a pattern in order of their names.

    Args:
        key: `path`, or the split whose own file it is, for messages.

    Raises:
        InputError: there is no such file.
    """
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
            raise InputError(f"data.{key}: no file matches {path}")
        return files
    return [_regular(place, key)]


def _regular(path: Path, key: str) -> Path:
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
                f"write it to a file, and give data.{key}=FILE"
            )
    return path


def _hash(path: Path, key: str = "path") -> str:
    try:
        return sha256_of(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give data.{key}= a file of records") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _stream(
    file: File,
    name: str | None = None,
    fields: dict[str, str] | None = None,
    known: bool = False,
    contents: Contents | None = None,
) -> Iterator[Record]:
    """Yield the records of a file; messages call it `name`.

    Raises:
        InputError: after the last record, the file has another hash than before.
    """
    with file.path.open("rb") as opened:
        yield from stream_records(opened, name or file.path, fields, known, contents)
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
