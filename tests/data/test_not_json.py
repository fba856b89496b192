"""Files that are not JSON: each is named as what it is, and only a truncated one as cut short."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import sqlite3
import zipfile
from pathlib import Path

import pytest

from sft.data.records import stream_records
from sft.errors import InputError

A = '{"instruction": "a", "output": "b"}'
CUT = "is the file cut short?"


def refused(content: bytes) -> str:
    with pytest.raises(InputError) as error:
        list(stream_records(io.BytesIO(content), "mine.json"))
    assert "\n" not in str(error.value)
    return str(error.value)


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("mine.json", f"[{A}]")
    return file.getvalue()


BINARIES = {
    "gzip": gzip.compress(gzip.compress(A.encode())),
    "bzip2": bz2.compress(A.encode()),
    "xz": lzma.compress(A.encode()),
    "zip": zipped(),
    "zstd": b"\x28\xb5\x2f\xfd\x04\x00",
    "Python pickle": pickle.dumps([1]),
    "UTF-16": A.encode("utf-16"),
    "PDF": b"%PDF-1.7\n",
}


@pytest.mark.parametrize("name", BINARIES)
def test_a_file_that_is_no_text_is_called_by_its_format(name: str) -> None:
    line = refused(BINARIES[name])
    assert name in line
    assert CUT not in line


def test_a_database_is_called_by_its_format(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "a.db") as database:
        database.execute("create table a (b)")
    assert "SQLite" in refused((tmp_path / "a.db").read_bytes())


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("instruction,output\na,b\n", "CSV"),
        ("instruction;output\na;b\n", "CSV"),
        ('"instruction","output"\n"a","b"\n', "CSV"),
        ("instruction\toutput\na\tb\n", "TSV"),
        ("<!DOCTYPE html><html>", "HTML"),
        ("\n <HTML><body>", "HTML"),
        ("<?xml version='1.0'?><a/>", "XML"),
        ("- instruction: a\n  output: b\n", "YAML"),
        ("instruction: a, b\noutput: b\n", "YAML"),
        ("---\n- a\n", "YAML"),
        ("# Records.\n\n# Two.\ninstruction: a\noutput: b\n", "YAML"),
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "git lfs pull",
        ),
        (f"// mine\n[{A}]", "comment"),
        (f"# mine\n[{A}]", "comment"),
        (f"[{A}, // the first\n{A}]", "comment"),
        (f"[\n/* the first */ {A}]", "comment"),
        (f"{A}\n# the second\n{A}", "comment"),
        (f"[{A},]", "comma too many"),
        (f"[{A},\n]\n", "comma too many"),
        ('[{"instruction": "a", "output": "b",}]', "comma too many"),
        (f"[{A},,{A}]", "comma too many"),
        (f"{A},\n{A},\n", "comma"),
        (f"[{A}{A}]", "no comma"),
        (f"[{A}]\n[{A}]", "no comma"),
        ("[{'instruction': 'a'}]", "json.dump"),
        ('[{"instruction": None}]', "json.dump"),
        ('[{"instruction": True}]', "json.dump"),
        ("[{“instruction”: 1}]", "curly"),
        ("[{instruction: 1}]", "quotation marks"),
        ('[{"instruction": "a\nb"}]', "written as \\n"),
        ('[{"instruction": "C:\\data"}]', "backslash"),
        ("just some words\n", "plain text"),
        ("[\x00{\x00", "UTF-16"),
        ('[{"instruction": "a" "output": "b"}]', "correct it there"),
    ],
)
def test_a_text_that_is_not_json_is_called_what_it_is(text: str, word: str) -> None:
    for content in (text.encode(), text.encode("utf-8-sig")):
        line = refused(content)
        assert line.startswith("mine.json: not JSON at line ")
        assert word in line
        assert CUT not in line


def test_a_file_that_ends_too_soon_is_cut_short() -> None:
    """Wherever it ends."""
    whole = json.dumps(
        [{"instruction": 'say "a" é \\ /', "input": "", "output": "b // c, }"}] * 2, indent=1
    )
    for end in range(1, len(whole)):
        line = refused(whole[:end].encode())
        assert line.endswith(CUT), whole[:end]
    assert refused(f"{A}\n{A[:25]}".encode()).endswith(CUT)


def test_messages_about_a_megabyte_come_at_once() -> None:
    for text in (
        "[" + " " * 1_000_000,
        "#" + "\n" * 1_000_000,
        '["' + "\\" * 1_000_000,
        "[" + '"a",' * 300_000 + "]",
    ):
        refused(text.encode())
