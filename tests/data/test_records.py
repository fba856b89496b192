"""Records from JSON: what is read, and what is refused, with the place of the fault."""

import json
import random
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest

from sft.data import formats, records
from sft.data.formats import parse_json
from sft.data.records import Contents, Reader, Record, stream_records
from sft.errors import InputError


@pytest.fixture(autouse=True, params=[4, 5, 11, 1 << 20])
def window(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many letters of a file are read at a time."""
    monkeypatch.setattr(formats, "WINDOW", request.param)
    return request.param


def encoded(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


def streamed(content: str | bytes) -> list[Record]:
    file = BytesIO(encoded(content))
    found = list(stream_records(file, Path("mine.json")))
    assert not file.closed
    return found


def refused(content: str | bytes) -> str:
    """Return the message about a content, which is one line, without the name of its file."""
    with pytest.raises(InputError) as error:
        streamed(content)
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith("mine.json: ")
    return line.removeprefix("mine.json: ")


def parsed(content: str | bytes) -> list[Record]:
    """Return the records, read in pieces, without `parse_json`; as a whole they are the same."""
    items = parse_json(encoded(content), "mine.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "parse_json", None)
        found = streamed(content)
    reader = Reader("mine.json")
    assert found == [reader.read(item, 1)[0] for item in items]
    return found


A = '{"instruction": "a", "output": "b"}'
RECORD = Record("a", "", "b")


@pytest.mark.parametrize(
    "content",
    [
        f"[{A}, {A}]",
        f" \n [ {A} ,\n\n {A} ]\n\n",
        f"{A}\n{A}",
        f"{A}\n{A}\n",
        f"\n\n  {A}  \r\n\r\n{A}\r\n",
        f"\ufeff[{A},{A}]",
        f"\ufeff{A}\n{A}",
        '[{"instruction": "a", "output": "b", "input": null},'
        ' {"output": "b", "id": NUMBER, "instruction": "a"}]',
    ],
)
def test_an_array_and_json_lines_are_read_in_every_layout(content: str) -> None:
    assert parsed(content.replace("NUMBER", "7" * 5000)) == [RECORD, RECORD]


def test_a_records_texts_are_read_as_they_are() -> None:
    text = (
        '[{"instruction": "", "input": " x\\n",'
        ' "output": "<|endoftext|> \\ud83d\\ude00é", "category": "c"}]'
    )
    assert parsed(text) == [Record("", " x\n", "<|endoftext|> 😀é", "c")]
    assert parsed('[{"instruction": "a", "output": "b", "category": 3}]') == [
        replace(RECORD, category="3")
    ]
    assert (
        parsed('{"instruction": "a\\u2028b\\u0085c", "output": "b"}\n' + A)[0].instruction
        == "a\u2028b\u0085c"
    )

    # These two are line ends for str.splitlines, but not for JSON.
    line = '{"instruction": "a\u2028b\u0085c", "output": "b"}'
    assert parsed(f"{line}\n{line}")[1].instruction == "a\u2028b\u0085c"


def test_of_a_key_given_twice_the_last_counts() -> None:
    assert parsed('[{"instruction": "x", "instruction": "a", "output": "b"}]') == [RECORD]


def test_one_line_is_json_lines_of_one_record() -> None:
    assert parsed(A) == [RECORD]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty, expected a JSON array of records"),
        (" \n\t\r\n", "empty, expected a JSON array of records"),
        ("\ufeff", "empty, expected a JSON array of records"),
        ("[]", "an empty array, expected at least one record"),
        ("{}", "an object instead of an array of records"),
        ('{"data": [' + A + '], "more": [' + A + "]}", "an object instead of an array of records"),
        ('{"data": [1, 2]}', "an object instead of an array of records"),
        ('{"data": []}', "an empty list in 'data'"),
        ('{"0": ' + A + ',\n "1": ' + A + "}", "an object instead of an array of records"),
        ('"text"', "text instead of an array of records"),
        ("3", "a number instead of an array of records"),
        ("2.5e3", "a number instead of an array of records"),
        ("true", "a truth value instead of an array of records"),
        ("null", "null instead of an array of records"),
        (
            "instruction,output\na,b\n",
            "not JSON at line 1, column 1 (Expecting value); it looks like a table (CSV)",
        ),
        (
            "<!DOCTYPE html>",
            "not JSON at line 1, column 1 (Expecting value); it looks like a web page",
        ),
        (
            "[\n" + A + ",\n  " + A[:18],
            "not JSON at line 3, column 19 (Unterminated string starting at)",
        ),
        (
            "[\n" + A + ",\n",
            "not JSON at line 3, column 1 (Expecting value); is the file cut short?",
        ),
        (
            "[\n" + A + "\n",
            "not JSON at line 3, column 1 (Expecting ',' delimiter); is the file cut short?",
        ),
        (f"[{A}] x", "not JSON at line 1, column 39 (Extra data)"),
        (f"{A}\n\n{A[:-1]}\n{A}", "not JSON at line 3, column 35 (Expecting ',' delimiter)"),
        (f"{A[:-1]}\n{A}", "not JSON at line 2, column 1 (Expecting ',' delimiter)"),
        (f"{A}\n{A} {A}", "not JSON at line 2, column 37 (Extra data)"),
        (
            "[{'instruction': 'a'}]",
            "not JSON at line 1, column 3 (Expecting property name enclosed in double quotes)",
        ),
        ("\ufeff\ufeff[]", "not JSON at line 1, column 1 (Unexpected UTF-8 BOM"),
        (f"[{A}, NaN]", "NaN is not JSON"),
        (A + '\n{"instruction": "a", "output": -Infinity}', "-Infinity in line 2 is not JSON"),
        ("[" * 100_000, "nested too deeply, expected a JSON array of records"),
        ('{"a":' * 100_000, "nested too deeply, expected a JSON array of records"),
        (b"\xff\xfe[\x00]\x00", "UTF-16 text; save it as UTF-8"),
        (b"\xff[]", "not UTF-8 text at line 1, byte 1 of it: 0xFF ('ÿ' in Windows-1252); "),
        (
            b'[{"instruction": "caf\xe9", "output": ""}]',
            "not UTF-8 text at line 1, byte 22 of it: 0xE9 after '{\"instruction\": \"caf' ('é' in",
        ),
        (f"[{A}, 5]", "record 2: a number instead of an object with instruction, input and output"),
        (
            f"[{A}, [{A}]]",
            "record 2: an array instead of an object with instruction, input and output",
        ),
        (f"{A}\nnull", "record 2: null instead of an object with instruction, input and output"),
        (
            '[{"output": "b"}]',
            "record 1: no 'instruction', expected instruction and output; found 'output'",
        ),
        (
            f'[{A}, {{"instruction": "a"}}]',
            "record 2: no 'output', expected instruction and output; found 'instruction'",
        ),
        (
            f"[{A}, {A}, {{}}]",
            "record 3: no 'instruction', expected instruction and output; found nothing",
        ),
        (
            json.dumps([{str(i): A for i in range(9)}]),
            "record 1: no 'instruction', expected instruction and output; found '0', '1', '2', '3'",
        ),
        (
            A + '\n{"instruction": "a", "output": true}',
            "record 2: 'output' is a truth value, expected text",
        ),
        (
            '[{"instruction": false, "output": "b"}]',
            "record 1: 'instruction' is a truth value, expected text",
        ),
        (
            '[{"instruction": null, "output": "b"}]',
            "record 1: 'instruction' is null, expected text",
        ),
        ('[{"instruction": "a", "output": null}]', "record 1: 'output' is null, expected text"),
        (
            '[{"instruction": "a", "output": ["b"]}]',
            "record 1: 'output' is an array, expected text",
        ),
        ('[{"instruction": "a", "output": {}}]', "record 1: 'output' is an object, expected text"),
        (
            '[{"instruction": "a", "output": "b", "input": false}]',
            "record 1: 'input' is a truth value, expected text",
        ),
        (
            f'[{A}, {{"instruction": "a", "output": "b\\ud83d"}}]',
            "record 2: 'output' contains a lone surrogate",
        ),
        (
            '[{"instruction": "\\ude00", "output": "b"}]',
            "record 1: 'instruction' contains a lone surrogate",
        ),
    ],
)
def test_a_fault_is_named_with_its_place(content: str | bytes, message: str) -> None:
    assert refused(content).startswith(message)


WITH = '{"instruction": "a", "output": "b", KEY: "c"}'


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("Input", "input"),
        ("INPUT", "input"),
        (" input", "input"),
        ("input ", "input"),
        ("inputs", "input"),
        ("Inputs", "input"),
        ("inpt", "input"),
        ("imput", "input"),
        ("inptu", "input"),
        ("in_put", "input"),
        ("Category", "category"),
        ("categroy", "category"),
    ],
)
def test_a_misspelt_optional_key_is_refused(key: str, meant: str) -> None:
    with_key = WITH.replace("KEY", json.dumps(key))
    message = f"record 2: {key!r} is not read; rename it to '{meant}'"
    assert refused(f"[{A}, {with_key}]").startswith(message)
    assert refused(f"{A}\n{with_key}").startswith(message)


@pytest.mark.parametrize(
    "key", ["Instruction", "instructions", "intruction", "instruct1on", "\ufeffinstruction"]
)
def test_a_misspelt_required_key_is_refused(key: str) -> None:
    text = json.dumps([{key: "a", "output": "b"}])
    assert refused(text).startswith(f"record 1: {key!r} is not read; rename it to 'instruction'")
    text = json.dumps([{"instruction": "a", key.replace("instru", "outp"): "b"}])
    assert refused(text).startswith("record 1: ")


def test_a_key_like_one_that_is_absent_is_counted_in_a_file_that_is_known() -> None:
    with_key = WITH.replace("KEY", '"Input"')
    text = f"[{A}, {with_key}]".encode()
    contents = Contents()
    found = list(stream_records(BytesIO(text), "mine.json", known=True, contents=contents))
    assert len(found) == contents.records == 2
    assert contents.unused == {"Input": 1}


@pytest.mark.parametrize(
    "key",
    ["put", "out", "in", "context", "text", "data_input", "", "categories", "i" * 99],
)
def test_an_unknown_key_is_ignored(key: str) -> None:
    assert parsed(f"[{WITH.replace('KEY', json.dumps(key))}]") == [RECORD]


def test_a_key_is_not_misspelt_if_the_right_one_is_there_too() -> None:
    assert parsed(
        '[{"instruction": "a", "output": "b", "input": "",'
        ' "Input": "c", "outputs": [], "INPUT": 1}]'
    ) == [RECORD]


def unused(content: str) -> dict[str, int]:
    """Return the keys that are counted as not read."""
    contents = Contents()
    list(stream_records(BytesIO(content.encode()), "mine.json", contents=contents))
    return dict(contents.unused)


def test_unused_keys_are_counted_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    some = WITH.replace("KEY", '"context"')
    both = (
        '{"instruction": "a", "input": "", "output": "b", "category": "c",'
        ' "context": 1, "history": [], "source": "s"}'
    )
    for text in (f"[{some}, {A}, {both}]", f"{some}\n{A}\n{both}"):
        assert unused(text) == {"context": 2, "source": 1}
    assert unused(f"[{A}]") == {}
    many = [
        {"instruction": "a", "output": "b", f"key {number}": "", "same": ""} for number in range(9)
    ]
    monkeypatch.setattr(records, "MOST_KEYS", 4)
    assert unused(json.dumps(many)) == {"key 0": 1, "same": 9, "key 1": 1, "key 2": 1}


def test_random_records_in_both_forms() -> None:
    draw = random.Random(0)
    made = [
        Record(
            *("".join(draw.choices('a"\\]},[{ \n\u2028é😀', k=draw.randint(0, 9))) for _ in "123")
        )
        for _ in range(99)
    ]
    objects = [{"instruction": r.instruction, "input": r.input, "output": r.output} for r in made]
    for escaped in (True, False):
        lines = [json.dumps(item, ensure_ascii=escaped) for item in objects]
        assert parsed("\n".join(lines)) == made
        assert parsed("[" + ",".join(lines) + "]") == made
        assert parsed(json.dumps(objects, ensure_ascii=escaped, indent=2)) == made


@pytest.mark.parametrize("form", ["[{}]", "{}"])
def test_the_file_is_not_read_ahead(form: str) -> None:
    file = BytesIO(form.format(("," if "[" in form else "\n").join([A] * 300_000)).encode())
    assert next(stream_records(file, "mine.json")) == RECORD
    assert file.tell() <= 2 * max(formats.WINDOW, 8192)


def test_records_before_a_second_reading_do_not_come_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    again = [{"instruction": letter, "output": "b"} for letter in "wxyz"]
    monkeypatch.setattr(formats, "parse_json", lambda content, name: again)
    found = streamed(f"[{A}, {A}, ?")
    assert [record.instruction for record in found] == ["a", "a", "y", "z"]


@pytest.mark.parametrize("form", ["[{}]", "{}"])
def test_a_syntax_error_further_down_is_reported_before_a_bad_record(form: str) -> None:
    lines = ['{"instruction": [], "output": "b"}', A, A[:-1]]
    content = form.format((",\n" if "[" in form else "\n").join(lines))
    assert refused(content).startswith("not JSON at line 3")
