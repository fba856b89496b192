"""The shapes of records: what each is read as, and what is refused by record and key."""

import json
from io import BytesIO
from typing import Any

import pytest

from sft.data.overview import contents_text
from sft.data.records import SHAPES, Contents, Record, Turn, stream_records
from sft.errors import InputError

U, A = "user", "assistant"
EARLIER = (Turn("user", "What is the plural of box?"), Turn("assistant", "boxes"))
SYSTEM = Turn("system", "Be short.")
MESSAGES = [
    {"role": "user", "content": "What is the plural of box?"},
    {"role": "assistant", "content": "boxes"},
    {"role": "user", "content": "And of fox?"},
    {"role": "assistant", "content": "foxes"},
]
SHAREGPT = [
    {"from": {"user": "human", "assistant": "gpt"}[one["role"]], "value": one["content"]}
    for one in MESSAGES
]


def read(*items: Any, known: bool = False, **fields: str) -> tuple[list[Record], Contents]:
    contents = Contents()
    file = BytesIO(json.dumps(items).encode())
    found = stream_records(file, "mine.json", fields or None, known, contents)
    return list(found), contents


def refused(*items: Any, **fields: str) -> str:
    with pytest.raises(InputError) as error:
        read(*items, **fields)
    line = str(error.value)
    assert "\n" not in line
    return line.removeprefix("mine.json: ")


READ: list[tuple[str, dict[str, Any], Record]] = [
    (
        "instruction",
        {"instruction": "q", "input": "i", "output": "a", "category": "c"},
        Record("q", "i", "a", "c"),
    ),
    (
        "instruction",
        {"instruction": "q", "output": "a", "system": "Be short.", "history": [["x", "y"]]},
        Record("q", "", "a", before=(SYSTEM, Turn("user", "x"), Turn("assistant", "y"))),
    ),
    (
        "instruction",
        {"instruction": "q", "output": "a", "system": None, "history": None},
        Record("q", "", "a"),
    ),
    (
        "Dolly",
        {"instruction": "q", "context": "i", "response": "a", "category": "c"},
        Record("q", "i", "a", "c"),
    ),
    ("prompt/completion", {"prompt": "q", "completion": "a"}, Record("q", "", "a")),
    ("question/answer", {"question": "q", "answer": "a"}, Record("q", "", "a")),
    ("messages", {"messages": MESSAGES}, Record("And of fox?", "", "foxes", before=EARLIER)),
    (
        "messages",
        {"messages": [{"role": "system", "content": "Be short."}, *MESSAGES], "category": "c"},
        Record("And of fox?", "", "foxes", "c", (SYSTEM, *EARLIER)),
    ),
    (
        "messages",
        {"messages": [{"role": "system", "content": ""}, *MESSAGES[:2]]},
        Record("What is the plural of box?", "", "boxes"),
    ),
    (
        "ShareGPT",
        {"conversations": SHAREGPT, "system": "Be short."},
        Record("And of fox?", "", "foxes", before=(SYSTEM, *EARLIER)),
    ),
    (
        "preference",
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        Record("q", "", "a", rejected="b"),
    ),
    ("text", {"text": "Once upon a time"}, Record("", "", "Once upon a time")),
]


@pytest.mark.parametrize(("shape", "item", "record"), READ)
def test_each_shape_is_recognised_by_its_keys(
    shape: str, item: dict[str, Any], record: Record
) -> None:
    [found], contents = read(item)
    assert found == record
    assert (contents.shape, contents.unused, contents.records) == (shape, {}, 1)


def test_every_shape_has_an_example_here() -> None:
    assert {shape for shape, _, _ in READ} == SHAPES.keys()


@pytest.mark.parametrize(
    ("item", "missing", "expected"),
    [
        ({"instruction": "q", "chosen": "a"}, "rejected", "chosen and rejected"),
        ({"prompt": "q", "rejected": "a"}, "chosen", "chosen and rejected"),
        ({"frage": "q", "antwort": "a"}, "instruction", "instruction and output"),
    ],
)
def test_a_record_that_lacks_a_key_is_measured_by_the_nearest_shape(
    item: dict[str, str], missing: str, expected: str
) -> None:
    assert refused(item).startswith(f"record 1: no '{missing}', expected {expected}; found ")


@pytest.mark.parametrize(
    ("name", "more"), [("a.jsonl", {}), ("a.json", {}), ("a.jsonl", {"tags": ["x"]})]
)
def test_one_line_with_unknown_keys_is_a_record(name: str, more: dict[str, list[str]]) -> None:
    file = BytesIO(json.dumps({"frage": "q", "antwort": "a", **more}).encode())
    with pytest.raises(InputError, match=f"^{name}: record 1: no 'instruction', .*data.fields="):
        list(stream_records(file, name))


def test_text_beside_another_shape_is_an_unused_key() -> None:
    [found], contents = read({"instruction": "q", "output": "a", "text": "t"})
    assert found == Record("q", "", "a")
    assert contents.unused == {"text": 1}


def test_a_number_becomes_its_text_as_it_is_written() -> None:
    file = BytesIO(b'[{"instruction": 12345678901234567890, "input": 1.50, "output": -3e2}]')
    assert list(stream_records(file, "f")) == [Record("12345678901234567890", "1.50", "-3e2")]


@pytest.mark.parametrize(
    ("item", "parts"),
    [
        ({"instruction": "q", "output": None}, ["'output' is null"]),
        ({"instruction": "q", "output": ["a"]}, ["'output' is an array"]),
        ({"instruction": {"x": 1}, "output": "a"}, ["'instruction' is an object"]),
        ({"instruction": "q", "output": True}, ["'output' is a truth value"]),
        ({"instruction": "q", "output": "a", "history": "x"}, ["'history' is text"]),
        ({"instruction": "q", "output": "a", "history": [["x"]]}, ["history[0]", "pair"]),
        (
            {"instruction": "q", "output": "a", "history": [["x", 1], ["y", None]]},
            ["history[1][1]"],
        ),
        ({"messages": []}, ["'messages' is empty"]),
        ({"messages": "hi"}, ["'messages' is text"]),
        ({"messages": ["hi"]}, ["messages[0] is text"]),
        ({"messages": MESSAGES[:1]}, ["'messages' does not end with an assistant"]),
        ({"messages": MESSAGES[1:]}, ["messages[0] is an assistant's turn", "user"]),
        ({"messages": [MESSAGES[0], *MESSAGES]}, ["messages[1] is a user's turn after another"]),
        ({"messages": [*MESSAGES[:2], MESSAGES[1]]}, ["messages[2] is an assistant's turn"]),
        (
            {"messages": [*MESSAGES, {"role": "system", "content": "s"}]},
            ["messages[4] is a system turn"],
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, ["messages[0].role is 'tool'"]),
        (
            {"messages": [MESSAGES[0], MESSAGES[1], {"role": "assistant", "tool_calls": [{}]}]},
            ["messages[2] calls a tool", "leave the record out"],
        ),
        ({"messages": [{"role": "user", "content": ["x"]}]}, ["messages[0].content", "an array"]),
        ({"messages": [{"role": "user", "text": "x"}]}, ["messages[0] has no role and content"]),
        (
            {"conversations": [{"from": "system", "value": "s"}, *SHAREGPT], "system": "t"},
            ["'system'", "system turn"],
        ),
        ({"question": "q", "reply": "a"}, ["no 'answer'", "'reply'", "data.fields"]),
        ({"prompt": "q", "completions": "a"}, ["'completions'", "'completion'"]),
    ],
)
def test_a_fault_is_named_by_record_and_key(item: dict[str, Any], parts: list[str]) -> None:
    line = refused(item)
    assert line.startswith("record 1: ")
    for part in parts:
        assert part in line


def test_a_record_that_could_be_two_shapes_is_refused() -> None:
    line = refused({"instruction": "q", "output": "a", "messages": MESSAGES})
    for part in ("record 1", "instruction, output", "messages", "data.fields"):
        assert part in line


def test_a_mixture_of_shapes_is_refused_with_the_option_that_decides() -> None:
    line = refused({"prompt": "q", "completion": "a"}, {"messages": MESSAGES})
    for part in ("record 2", "messages", "prompt, completion", "data.fields"):
        assert part in line
    mixed = [{"instruction": "q", "output": "a"}, {"question": "r", "answer": "b"}]
    assert refused(*mixed).startswith("record 2: ")

    # A run that used the file before read it so.
    assert len(read(*mixed, known=True)[0]) == 2


def test_own_keys_are_read_also_nested_ones() -> None:
    item = {"data": {"q": "x", "deep": {"a": "y"}}, "ctx": "i", "n.m": "c", "rest": 1}
    fields = {"instruction": "data.q", "output": "data.deep.a", "input": "ctx", "category": "n.m"}
    [found], contents = read(item, **fields)
    assert found == Record("x", "i", "y", "c")
    assert (contents.shape, contents.unused) == ("data.fields", {"rest": 1})
    assert "no 'data.q'" in refused({"data": {}}, **fields)
    assert read({"dialog": SHAREGPT}, messages="dialog")[0][0].before == EARLIER
    assert read({"body": "t", "output": "x"}, text="body")[0] == [Record("", "", "t")]


def test_own_keys_decide_where_a_record_could_be_two() -> None:
    item = {"instruction": "q", "output": "a", "messages": MESSAGES}
    assert read(item, output="output")[0] == [Record("q", "", "a")]
    assert read(item, messages="messages")[0][0].before == EARLIER


@pytest.mark.parametrize("fields", [{"frage": "x"}, {"messages": "m", "input": "i"}])
def test_unknown_parts_and_those_that_do_not_go_together_are_refused(
    fields: dict[str, str],
) -> None:
    assert refused({"x": "y"}, **fields).startswith("data.fields: ")


def test_what_was_recognised_is_said_in_one_line() -> None:
    _, talks = read({"messages": MESSAGES}, {"messages": MESSAGES[:2]})
    assert contents_text([talks, talks]) == "4 conversations, messages format, 1.5 turns each"
    _, single = read(*({"prompt": "q", "completion": "a"} for _ in range(1200)))
    assert contents_text([single]) == "1,200 records, prompt/completion format"
