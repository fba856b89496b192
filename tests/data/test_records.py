"""Records from JSON: what is read, and what is refused in which words."""

import json
import random
from collections import Counter
from io import BytesIO
from pathlib import Path

import pytest

from sft.data import records
from sft.data.records import Record, parse_records, stream_records
from sft.errors import InputError


@pytest.fixture(autouse=True, params=[4, 5, 11, 1 << 20])
def window(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many letters of a file are read at a time."""
    monkeypatch.setattr(records, "WINDOW", request.param)
    return request.param


def encoded(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


def streamed(content: str | bytes) -> list[Record]:
    file = BytesIO(encoded(content))
    found = list(stream_records(file, Path("mine.json")))
    assert not file.closed
    return found


def refused(content: str | bytes) -> str:
    """What is said of this content, in one line, after the name of its file; read as a whole or piece by piece."""
    with pytest.raises(InputError) as error:
        parse_records(encoded(content), Path("mine.json"))
    with pytest.raises(InputError) as again:
        streamed(content)
    line = str(error.value)
    assert str(again.value) == line
    assert "\n" not in line
    assert line.startswith("mine.json: ")
    return line.removeprefix("mine.json: ")


def parsed(content: str | bytes) -> list[Record]:
    """The records, read as a whole; and piece by piece, which needs no help."""
    whole = parse_records(encoded(content), Path("mine.json"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "parse_records", None)
        assert streamed(content) == whole
    return whole


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
        '[{"instruction": "a", "output": "b", "input": null}, {"output": "b", "id": NUMBER, "instruction": "a"}]',
    ],
)
def test_forms_that_are_read(content: str) -> None:
    assert parsed(content.replace("NUMBER", "7" * 5000)) == [RECORD, RECORD]


def test_what_a_record_holds() -> None:
    text = '[{"instruction": "", "input": " x\\n", "output": "<|endoftext|> \\ud83d\\ude00é", "category": "c"}]'
    assert parsed(text) == [Record("", " x\n", "<|endoftext|> 😀é", "c")]
    assert parsed('[{"instruction": "a", "output": "b", "category": 3}]') == [RECORD]
    assert (
        parsed('{"instruction": "a\\u2028b\\u0085c", "output": "b"}\n' + A)[0].instruction
        == "a\u2028b\u0085c"
    )
    line = '{"instruction": "a\u2028b\u0085c", "output": "b"}'  # line ends for str.splitlines, not for JSON
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
        ('{"data": [' + A + "]}", "an object instead of an array of records"),
        ('{\n "instruction": "a",\n "output": "b"\n}', "an object instead of an array of records"),
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
        (b"\xff[]", "not UTF-8 text (byte 0); save it as UTF-8"),
        (
            b'[{"instruction": "caf\xe9", "output": ""}]',
            "not UTF-8 text (byte 21); save it as UTF-8",
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
            "record 1: no 'instruction', expected instruction and output; found '0', '1', '2', '3', '4'",
        ),
        (
            A + '\n{"instruction": "a", "output": 5}',
            "record 2: 'output' is a number, expected text",
        ),
        (
            '[{"instruction": 5.0, "output": "b"}]',
            "record 1: 'instruction' is a number, expected text",
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
            '[{"instruction": "a", "output": "b", "input": 1}]',
            "record 1: 'input' is a number, expected text",
        ),
        (
            '[{"instruction": "a", "output": "b", "input": false}]',
            "record 1: 'input' is a truth value, expected text",
        ),
        (
            '[{"instruction": "a", "output": ' + "1" * 5000 + "}]",
            "record 1: 'output' is a number, expected text",
        ),
        (
            f'[{A}, {{"instruction": "a", "output": "b\\ud83d"}}]',
            "record 2: 'output' holds half of a surrogate pair, which is no character",
        ),
        (
            '[{"instruction": "\\ude00", "output": "b"}]',
            "record 1: 'instruction' holds half of a surrogate pair",
        ),
    ],
)
def test_what_is_refused(content: str | bytes, message: str) -> None:
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
def test_a_key_like_one_that_is_absent(key: str, meant: str) -> None:
    with_key = WITH.replace("KEY", json.dumps(key))
    message = f"record 2: {key!r} is not read; rename it to '{meant}'"
    assert refused(f"[{A}, {with_key}]").startswith(message)
    assert refused(f"{A}\n{with_key}").startswith(message)


@pytest.mark.parametrize(
    "key", ["Instruction", "instructions", "intruction", "instruct1on", "\ufeffinstruction"]
)
def test_a_key_like_one_that_must_be_there(key: str) -> None:
    text = json.dumps([{key: "a", "output": "b"}])
    assert refused(text).startswith(f"record 1: {key!r} is not read; rename it to 'instruction'")
    text = json.dumps([{"instruction": "a", key.replace("instru", "outp"): "b"}])
    assert refused(text).startswith("record 1: ")


def test_a_key_like_one_that_is_absent_is_counted_in_a_file_that_is_known() -> None:
    with_key = WITH.replace("KEY", '"Input"')
    text = f"[{A}, {with_key}]".encode()
    counted: Counter[str] = Counter()
    assert len(list(stream_records(BytesIO(text), "mine.json", counted, known=True))) == 2
    assert len(parse_records(text, "mine.json", known=True)) == 2
    assert counted == {"Input": 1}


@pytest.mark.parametrize(
    "key",
    ["put", "out", "in", "context", "history", "text", "data_input", "", "categories", "i" * 99],
)
def test_a_key_unlike_any_is_not_read(key: str) -> None:
    assert parsed(f"[{WITH.replace('KEY', json.dumps(key))}]") == [RECORD]


def test_a_key_like_one_that_is_there_too_is_not_read() -> None:
    assert parsed(
        '[{"instruction": "a", "output": "b", "input": "", "Input": "c", "outputs": [], "INPUT": 1}]'
    ) == [RECORD]


def unused(content: str) -> dict[str, int]:
    """The keys that are counted as not read; the same where the file is read as a whole."""
    counted: Counter[str] = Counter()
    list(stream_records(BytesIO(content.encode()), "mine.json", counted))
    again: Counter[str] = Counter()
    parse_records(content.encode(), "mine.json", again)
    assert counted == again
    return dict(counted)


def test_keys_that_are_not_read_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    some = WITH.replace("KEY", '"context"')
    both = '{"instruction": "a", "input": "", "output": "b", "category": "c", "context": 1, "history": []}'
    for text in (f"[{some}, {A}, {both}]", f"{some}\n{A}\n{both}"):
        assert unused(text) == {"context": 2, "history": 1}
    assert unused(f"[{A}]") == {}
    many = [
        {"instruction": "a", "output": "b", f"key {number}": "", "same": ""} for number in range(9)
    ]
    monkeypatch.setattr(records, "MOST_KEYS", 4)
    assert unused(json.dumps(many)) == {"key 0": 1, "same": 9, "key 1": 1, "key 2": 1}


def test_keys_are_counted_once_where_reading_in_pieces_stops() -> None:
    """One record over several lines is no JSON Lines; what was counted before the whole is read does not stay."""
    some = WITH.replace("KEY", '"context"')
    assert unused(f"{some}\n\n{some}\n") == {"context": 2}
    counted: Counter[str] = Counter()
    with pytest.raises(InputError):
        list(stream_records(BytesIO(f"[{some}, {some}, ".encode()), "mine.json", counted))
    assert counted == {}


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
    assert file.tell() <= 2 * max(records.WINDOW, 8192)


def test_what_only_the_whole_reading_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The records before the place where the reading in pieces stops do not come twice."""
    monkeypatch.setattr(records, "parse_records", lambda content, *rest: [*"1234"])
    assert streamed(f"[{A}, {A}, ?") == [RECORD, RECORD, "3", "4"]
