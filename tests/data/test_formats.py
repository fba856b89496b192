"""The table of file formats: each file gets its reader, and one entry adds a format."""

import csv
from collections.abc import Iterator
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from sft.config.schema import DataConfig
from sft.data.formats import FORMATS, HEAD, Format, format_of
from sft.data.records import Record
from sft.data.sources import load_source

A = b'{"instruction": "a", "output": "b"}'


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"[" + A + b"]", "JSON"),
        (A + b"\n" + A, "JSON Lines"),
        (b"\xef\xbb\xbf\r\n\t [", "JSON"),
        (b"\xef\xbb\xbf{", "JSON Lines"),
        (b"\n" * (HEAD - 1) + b"{", "JSON Lines"),
        (b" " * (3 * HEAD) + b"{", "JSON Lines"),
    ],
)
def test_a_format_is_told_by_the_first_character_that_is_not_blank(
    content: bytes, name: str
) -> None:
    file = BytesIO(content)
    assert format_of(file) == name
    assert file.tell() == 0


@pytest.mark.parametrize("content", [b"", b"\n" * HEAD, b"PAR1", b"a,b\n", b"\xff\xfe[\x00"])
def test_a_file_of_no_format_goes_to_the_reader_that_explains_it(content: bytes) -> None:
    assert format_of(BytesIO(content)) == "JSON"


def test_each_entry_reads_what_it_fits() -> None:
    contents = {"JSON": b'[{"a": 1}, 2]', "JSON Lines": b'{"a": 1}\n2'}
    assert contents.keys() == FORMATS.keys()
    for name, content in contents.items():
        assert [form for form in FORMATS if FORMATS[form].fits(content)] == [name]
        assert list(FORMATS[name].read(BytesIO(content), "mine")) == [{"a": 1}, 2]


def read_table(file: BinaryIO, name: Path | str) -> Iterator[Any]:
    yield from csv.DictReader(TextIOWrapper(file, "utf-8"))


def test_a_format_added_to_the_table_is_read_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Format(lambda head: head.startswith(b"instruction,"), read_table)
    monkeypatch.setitem(FORMATS, "CSV", table)
    path = tmp_path / "mine.csv"
    path.write_text('instruction,output,note\n"say a, b",c,1\nd,e,2\n')
    source = load_source(DataConfig(source="json", path=str(path)))
    assert source.records == [Record("say a, b", "", "c"), Record("d", "", "e")]
    assert source.unused == {"note": 2}
