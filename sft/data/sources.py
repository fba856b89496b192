"""Where records come from: the embedded file, the user's own, or a download. To add one, add a file to `conf/data/`."""

import hashlib
import json
import os
import random
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import requests
from tqdm import tqdm

from sft.config import DataConfig, InputError

SURROGATE = re.compile("[\ud800-\udfff]")
EMBEDDED = {"nano": Path(__file__).parents[1] / "assets" / "nano.json"}


@dataclass(frozen=True)
class Record:
    """One instruction, what it is about (may be empty), and the answer wanted."""

    instruction: str
    input: str
    output: str
    category: str | None = None


@dataclass(frozen=True)
class Source:
    """The records of a data set, in file order, and the file's own name and hash."""

    records: list[Record]
    path: Path
    sha256: str


def load_source(config: DataConfig) -> Source:
    """Read the records that `config` asks for, sampled if it says so.

    Raises:
        InputError: no such file, a broken download, not JSON, a record that is none; by file and record.
    """
    path = _locate(config)
    content = _read(path)
    sha256 = hashlib.sha256(content).hexdigest()
    if config.url is not None and config.sha256 not in (None, sha256):
        raise InputError(f"{path}: sha256 {sha256}, expected {config.sha256}; delete the file, it is downloaded anew")
    records = parse_records(content, path)
    if config.sample is not None:
        if config.sample > len(records):
            raise InputError(f"data.sample: {config.sample} of the {len(records)} records in {path}: lower it")
        records = random.Random(config.sample_seed).sample(records, config.sample)
    return Source(records, path, sha256)


def _locate(config: DataConfig) -> Path:
    if config.url is not None:
        return download(config.source, config.url, config.sha256)
    if config.source in EMBEDDED:
        return EMBEDDED[config.source]
    if config.path is None:
        raise InputError("data.path: missing; data=json needs data.path=FILE, a JSON array or JSON Lines")
    return Path(config.path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give data.path= a JSON file of records") from None
    except IsADirectoryError:
        raise InputError(f"{path}: a folder, expected a JSON file of records") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def parse_records(content: bytes, path: Path | str) -> list[Record]:
    """Records from a JSON array or from JSON Lines (one object a line), in UTF-8. Of a key given twice the last counts.

    Raises:
        InputError: by line and column for the syntax, by record number (from 1) for what a record holds.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    if not text.strip():
        raise InputError(f"{path}: empty, expected a JSON array of records")
    try:
        items = _parse_lines(text, path) if text.lstrip()[0] == "{" else _parse(text, path)
    except RecursionError:
        raise InputError(f"{path}: nested too deeply, expected a JSON array of records") from None
    if not isinstance(items, list):
        raise InputError(f"{path}: {_kind(items)} instead of an array of records")
    if not items:
        raise InputError(f"{path}: an empty array, expected at least one record")
    return [_record(item, path, number) for number, item in enumerate(items, 1)]


def _parse(text: str, path: Path | str, line: int = 0) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise InputError(f"{path}: {constant}{f' in line {line}' if line else ''} is not JSON")

    try:  # no number is used, and float() reads also thousands of digits
        return json.loads(text, parse_constant=refuse, parse_int=float)
    except json.JSONDecodeError as error:
        place = f"line {line or error.lineno}, column {error.colno}"
        raise InputError(f"{path}: not JSON at {place} ({error.msg}); is the file cut short?") from None


def _parse_lines(text: str, path: Path | str) -> Any:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if len(lines) > 1 and lines[0][1].rstrip()[-1] != "}":  # an object over several lines is one JSON document
        return _parse(text, path)
    items = [_parse(line, path, number) for number, line in lines]
    return items[0] if len(items) == 1 and not {"instruction", "output"} & items[0].keys() else items


def _record(item: Any, path: Path | str, number: int) -> Record:
    where = f"{path}: record {number}"
    if not isinstance(item, dict):
        raise InputError(f"{where}: {_kind(item)} instead of an object with instruction, input and output")
    for key in ("instruction", "output"):
        if key not in item:
            found = ", ".join(map(repr, list(item)[:5])) or "nothing"
            raise InputError(f"{where}: no '{key}', expected instruction and output; found {found}")
    texts = {key: item.get(key, "") for key in ("instruction", "input", "output")}
    if texts["input"] is None:
        texts["input"] = ""
    for key, value in texts.items():
        if not isinstance(value, str):
            raise InputError(f"{where}: '{key}' is {_kind(value)}, expected text")
        if SURROGATE.search(value):
            raise InputError(f"{where}: '{key}' holds half of a surrogate pair, which is no character")
    category = item.get("category")
    return Record(**texts, category=category if isinstance(category, str) else None)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a truth value"
    names = {int: "a number", float: "a number", str: "text", list: "an array", dict: "an object"}
    return names[type(value)]


def cache_folder() -> Path:
    """Where downloads are kept: $SFT_CACHE, or `sft` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sft"
    return Path(os.environ.get("SFT_CACHE") or default)


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
            with partial.open("wb") as file:
                _fetch(name, url, file)
                file.flush()
                os.fsync(file.fileno())
            _check(url, sha256, partial)
            os.replace(partial, target)
    except (OSError, ValueError) as error:  # requests' errors are OSErrors too; ValueError: of a header
        raise InputError(
            f"{url}: the download failed ({error}); try again, or use a file you have: data=json data.path=FILE"
        ) from error
    return target


def _fetch(name: str, url: str, file: Any) -> None:
    with requests.get(url, stream=True, timeout=30) as response:
        response.raise_for_status()
        size = int(response.headers.get("Content-Length", 0)) or None
        with tqdm(total=size, unit="B", unit_scale=True, desc=f"downloading {name}") as bar:
            for chunk in response.iter_content(1 << 16):
                bar.update(file.write(chunk))
        encoded = response.headers.get("Content-Encoding", "identity") != "identity"
        if size is not None and not encoded and file.tell() != size:
            raise OSError(f"it broke off after {file.tell()} of {size} bytes")


def _check(url: str, sha256: str | None, path: Path) -> None:
    content = path.read_bytes()
    actual = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, actual):
        raise InputError(f"{url}: sha256 {actual}, expected {sha256}; something on the way changed the file, try again")
    parse_records(content, url)  # a login page is not a data set
