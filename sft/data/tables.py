"""Readers of tables: CSV and TSV, Parquet and Arrow. Each row becomes a dict by its columns.

`formats.py` lists them. pyarrow reads the last two. It is imported only when such a file is read.
"""

import csv
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from gzip import GzipFile
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO

from sft.data.not_json import binary_format, not_utf8
from sft.errors import InputError

# The signs that may separate columns. The one that is most frequent in the header does.
SEPARATORS = ",;\t"

# The longest field of a CSV file, in characters. Python's own limit is 131,072.
LONGEST_FIELD = 1 << 27

# How many rows of Parquet and Arrow become dicts at a time.
ROWS = 1024

QUOTES = 'write a quotation mark within a text as two (""), and put quotation marks around the text'


def read_csv(file: BinaryIO, name: Path | str) -> Iterator[dict[str, str]]:
    """Yield the rows of a table in text with a header, separated by commas, semicolons or tabs.

    Raises:
        InputError: the file is not such a table. The message names the line in which a row begins.
    """
    if described := binary_format(file.read(16)):
        raise InputError(f"{name}: {described}")
    file.seek(0)
    text = TextIOWrapper(file, "utf-8-sig", newline="")
    try:
        yield from _csv_rows(text, name)
    except UnicodeDecodeError:
        file.seek(0)
        raise InputError(f"{name}: {not_utf8(file)}") from None
    finally:
        # A wrapper that is collected closes its file, which belongs to the caller.
        text.detach()


def _csv_rows(text: TextIOWrapper, name: Path | str) -> Iterator[dict[str, str]]:
    first = text.readline()
    text.seek(0)
    csv.field_size_limit(LONGEST_FIELD)
    separator = max(SEPARATORS, key=first.count)
    numbered = _numbered(csv.reader(text, delimiter=separator, strict=True), name)

    _, header = next(numbered, (0, []))
    if not header:
        raise InputError(f"{name}: empty, expected a header with the names of the columns")
    if twice := [column for column, count in Counter(header).items() if count > 1]:
        raise InputError(f"{name}: two columns are named {twice[0]!r}; rename one of them")

    number = 0
    for number, (line, row) in enumerate(numbered, 1):  # noqa: B007
        if len(row) != len(header):
            raise InputError(
                f"{name}: line {line}: {_fields(len(row))}, but the header has {len(header)}; "
                f"if a text holds a separator or a quotation mark: {QUOTES}"
            )
        yield dict(zip(header, row, strict=True))
    if not number:
        raise InputError(f"{name}: no rows under the header {', '.join(header)}")


def _fields(count: int) -> str:
    return "1 field" if count == 1 else f"{count} fields"


def _numbered(rows: Any, name: Path | str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, each with the line in which it begins."""
    while True:
        line = rows.line_num + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            # A quotation mark that is not closed takes all that follows into its field.
            raise InputError(
                f"{name}: line {line}: a quotation mark is not closed, or closed within a text "
                f"({error}); {QUOTES}"
            ) from None
        if row:
            yield line, row


def read_parquet(file: BinaryIO, name: Path | str) -> Iterator[Any]:
    """Yield the rows of a Parquet file; errors are those of `read_arrow`."""
    _require_pyarrow(name, "a Parquet file")
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        for batch in ParquetFile(_seekable(file)).iter_batches(ROWS):
            yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        raise _broken(name, "Parquet", error) from None


def read_arrow(file: BinaryIO, name: Path | str) -> Iterator[Any]:
    """Yield the rows of an Arrow file (IPC, Feather) or of an Arrow stream.

    Raises:
        InputError: pyarrow is not installed, or the file is broken.
    """
    _require_pyarrow(name, "an Arrow file")
    from pyarrow import ArrowException, ipc

    try:
        is_file = file.read(6) == b"ARROW1"
        file.seek(0)
        if is_file:
            table = ipc.open_file(_seekable(file))
            batches = (table.get_batch(number) for number in range(table.num_record_batches))
        else:
            batches = iter(ipc.open_stream(file))
        for batch in batches:
            for start in range(0, batch.num_rows, ROWS):
                yield from batch.slice(start, ROWS).to_pylist()
    except (ArrowException, OSError) as error:
        raise _broken(name, "Arrow", error) from None


def _seekable(file: BinaryIO) -> Any:
    """Return the file, or an unpacked copy: going back in a gzip file unpacks it from the start."""
    if not isinstance(file, GzipFile):
        return file
    copy = tempfile.TemporaryFile()  # noqa: SIM115
    shutil.copyfileobj(file, copy)
    copy.seek(0)
    return copy


def _require_pyarrow(name: Path | str, kind: str) -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise InputError(
            f"{name}: {kind}, which needs pyarrow; install it with pip install -e '.[files]', or "
            "write the records as JSON Lines"
        ) from None


def _broken(name: Path | str, kind: str, error: Exception) -> InputError:
    reason = str(error).strip().partition("\n")[0]
    return InputError(
        f"{name}: the {kind} file is damaged or cut short ({reason[:200]}); get it again"
    )
