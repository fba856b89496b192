"""The table of file formats: each file gets its reader, and one entry adds a format."""

import gzip
import json
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from sft.config.schema import DataConfig
from sft.data import tables
from sft.data.formats import FORMATS, HEAD, Format, endings, format_of, read_values
from sft.data.records import Record
from sft.data.sources import load_source
from sft.errors import InputError

A = b'{"instruction": "a", "output": "b"}'
ROWS = [{"instruction": "say a, b", "output": 'c "d"'}, {"instruction": "é\n2", "output": ""}]


def parquet_bytes(rows: list[dict[str, Any]]) -> bytes:
    file = BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def arrow_bytes(rows: list[dict[str, Any]], stream: bool = False) -> bytes:
    table = pa.Table.from_pylist(rows)
    file = BytesIO()
    with (ipc.new_stream if stream else ipc.new_file)(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


CSV = 'instruction,output\n"say a, b","c ""d"""\n\n"é\n2",\n'.encode()
CONTENTS = {
    "a.json": json.dumps(ROWS).encode(),
    "a.jsonl": "\n".join(map(json.dumps, ROWS)).encode(),
    "a.csv": CSV,
    "b.csv": b"\xef\xbb\xbf" + CSV.replace(b"\n\n", b"\r\n\r\n"),
    "semicolons.csv": CSV.replace(b"instruction,output", b"instruction;output")
    .replace(b'b","', b'b";"')
    .replace(b'",\n', b'";\n'),
    "a.tsv": CSV.replace(b"instruction,output", b"instruction\toutput")
    .replace(b'b","', b'b"\t"')
    .replace(b'",\n', b'"\t\n'),
    "a.parquet": parquet_bytes(ROWS),
    "a.arrow": arrow_bytes(ROWS),
    "stream.arrow": arrow_bytes(ROWS, stream=True),
}


def values(content: bytes, name: str = "mine.json", **settings: Any) -> list[Any]:
    file = BytesIO(content)
    found = list(read_values(file, name, lambda item: "output" in item, **settings))
    assert not file.closed
    return found


def refused(content: bytes, name: str) -> str:
    """Return the message about a content, which is one line, without the name of its file."""
    with pytest.raises(InputError) as error:
        values(content, name)
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith(f"{name}: ")
    return line.removeprefix(f"{name}: ")


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"[" + A + b"]", "JSON"),
        (A + b"\n" + A, "JSON Lines"),
        (b"\xef\xbb\xbf\r\n\t [", "JSON"),
        (b"\xef\xbb\xbf{", "JSON Lines"),
        (b"\n" * (HEAD - 1) + b"{", "JSON Lines"),
        (b" " * (3 * HEAD) + b"{", "JSON Lines"),
        (b"PAR1", "Parquet"),
    ],
)
def test_a_format_is_told_by_the_first_bytes_that_are_not_blank(content: bytes, name: str) -> None:
    file = BytesIO(content)
    assert format_of(file, "mine.csv") == name
    assert file.tell() == 0


@pytest.mark.parametrize("content", [b"", b"\n" * HEAD, b"a,b\n", b"\xff\xfe[\x00"])
def test_a_file_of_no_format_goes_to_the_reader_that_explains_it(content: bytes) -> None:
    assert format_of(BytesIO(content)) == "JSON"
    assert format_of(BytesIO(content), "MINE.CSV.GZ") == "CSV"


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", CONTENTS)
def test_each_format_gives_the_same_rows(name: str, packed: bool) -> None:
    content = gzip.compress(CONTENTS[name]) if packed else CONTENTS[name]
    name += ".gz" if packed else ""
    assert values(content, name) == ROWS
    assert name.endswith(endings())


def test_every_format_has_a_content_here() -> None:
    assert {format_of(BytesIO(CONTENTS[name]), name) for name in CONTENTS} == set(FORMATS)


def test_rows_are_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"instruction": str(i), "output": str(i)} for i in range(50)]
    monkeypatch.setattr(tables, "ROWS", 7)
    assert values(parquet_bytes(rows)) == rows
    assert values(arrow_bytes(rows)) == rows
    assert values(arrow_bytes(rows, stream=True)) == rows


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("a.csv", 25),
        ("a.parquet", 200),
        ("a.arrow", 100),
        ("stream.arrow", 100),
        ("a.json", 30),
    ],
)
def test_a_file_cut_short_is_named(name: str, place: int) -> None:
    assert refused(CONTENTS[name][:place], name)
    line = refused(gzip.compress(CONTENTS[name])[:-20], f"{name}.gz")
    assert line.startswith("the gzip file is damaged or cut short")


def test_a_parquet_file_cut_short_is_called_that() -> None:
    content = CONTENTS["a.parquet"]
    for size in (4, 10, len(content) // 2, len(content) - 1):
        line = refused(content[:size], "a.parquet")
        assert line.startswith("the Parquet file is damaged or cut short"), size


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n1,2,3\n", "line 3: 3 fields, but the header has 2; "),
        ('a,b\n"1\n1",2\n\n1\n', "line 5: 1 field, but the header has 2; "),
        ('a,b\n1,2\n1,"2\n3,4\n5,6\n', "line 3: a quotation mark is not closed"),
        ('a,b\n1,2\n1,"2\n3,"4"\n5,6\n', "line 3: a quotation mark is not closed"),
        ('a,b\n1,"say "2""\n', "line 2: a quotation mark is not closed"),
        ('a,"b\n1,2\n', "line 1: a quotation mark is not closed"),
        ("", "empty, expected a header"),
        ("\n\n", "empty, expected a header"),
        ("a,b\n", "no rows under the header a, b"),
        ("a,b,a\n1,2,3\n", "two columns are named 'a'"),
        (
            "\ufeffa,b\r\n1,2\r\n".encode() + b"1,caf\xe9\r\n",
            "not UTF-8 text at line 3, byte 6 of it: 0xE9 after '1,caf' ('é' in Windows-1252); ",
        ),
        (
            "a,b\n1,é".encode()[:-1],
            "not UTF-8 text at line 2, byte 3 of it: a letter is incomplete",
        ),
        ("a,b\n1,2\n".encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        (b"PK\x03\x04", "a zip archive or an Excel file"),
    ],
)
def test_a_wrong_row_is_named_by_its_line(content: str | bytes, message: str) -> None:
    encoded = content.encode() if isinstance(content, str) else content
    assert refused(encoded, "mine.csv").startswith(message)


def test_a_missing_pyarrow_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for name, kind in (("a.parquet", "a Parquet file"), ("a.arrow", "an Arrow file")):
        line = refused(CONTENTS[name], name)
        assert line.startswith(kind)
        assert "pip install -e '.[files]'" in line


# Wrappers


@pytest.mark.parametrize("indent", [None, 1])
def test_a_list_in_an_object_is_unwrapped(indent: int | None) -> None:
    document = {"version": "1.0", "tags": ["a"], "data": ROWS}
    lists: dict[str, int] = {}
    assert values(json.dumps(document, indent=indent).encode(), lists=lists) == ROWS
    assert lists == {"data": 2}


def test_lists_named_as_splits_come_in_their_order() -> None:
    one, two = ROWS
    document = {"val": [], "test": [two], "train": [one, two]}
    lists: dict[str, int] = {}
    assert values(json.dumps(document).encode(), lists=lists) == [one, two, two]
    assert list(lists.items()) == [("train", 2), ("test", 1), ("validation", 0)]


def test_an_object_that_is_a_record_is_not_unwrapped() -> None:
    record = {"output": "a", "history": [{"a": "b"}]}
    lists: dict[str, int] = {}
    assert values(json.dumps(record, indent=1).encode(), lists=lists) == [record]
    assert lists == {}


# The table


def read_notes(file: BinaryIO, name: Path | str) -> Iterator[Any]:
    for line in file.read().decode().splitlines():
        yield dict(zip(("instruction", "output", "note"), line.split("|"), strict=True))


def test_a_format_added_to_the_table_is_read_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = Format(lambda head: False, read_notes, (".notes",))
    monkeypatch.setitem(FORMATS, "notes", notes)
    path = tmp_path / "mine.notes"
    path.write_text("say a, b|c|1\nd|e|2\n")
    source = load_source(DataConfig(source="json", path=str(path)))
    assert source.records == [Record("say a, b", "", "c"), Record("d", "", "e")]
    assert source.unused == {"note": 2}
