"""Each shape that the README lists: from a file of any format to the example that is learned."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiktoken

from sft.config.schema import DataConfig
from sft.data.overview import example_text
from sft.data.sources import load_source
from sft.data.splits import load_splits, part_rows
from sft.prompts import PROMPTS

SINGLE = "<|im_start|>user\nq{n}<|im_end|>\n<|im_start|>assistant\n⟦a{n}<|endoftext|>⟧"
WITH_INPUT = SINGLE.replace("q{n}", "q{n}\n\ni")
TALK = (
    "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n"
    "⟦v<|endoftext|>⟧\n<|im_start|>user\nq{n}<|im_end|>\n<|im_start|>assistant\n"
    "⟦a{n}<|endoftext|>⟧"
)


def turns(role: str, content: str, names: tuple[str, str, str], n: int) -> list[dict[str, str]]:
    system, user, assistant = names
    said = [(system, "s"), (user, "u"), (assistant, "v"), (user, f"q{n}"), (assistant, f"a{n}")]
    return [{role: who, content: text} for who, text in said]


def as_json(items: list[Any]) -> bytes:
    return json.dumps(items).encode()


def as_csv(items: list[Any]) -> bytes:
    lines = [",".join(items[0]), *(",".join(item.values()) for item in items)]
    return "\n".join(lines).encode()


def as_parquet(items: list[Any]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(items), sink)
    return bytes(sink.getvalue())


ROLES = ("system", "user", "assistant")
CASES: dict[str, tuple[str, Any, Any, str, dict[str, str] | None]] = {
    "Alpaca": (
        "mine.json",
        as_json,
        lambda n: {"instruction": f"q{n}", "input": "i", "output": f"a{n}"},
        WITH_INPUT,
        None,
    ),
    "Alpaca with system and history": (
        "mine.json",
        as_json,
        lambda n: {
            "instruction": f"q{n}",
            "output": f"a{n}",
            "system": "s",
            "history": [["u", "v"]],
        },
        TALK,
        None,
    ),
    "Dolly": (
        "mine.json",
        as_json,
        lambda n: {"instruction": f"q{n}", "context": "i", "response": f"a{n}"},
        WITH_INPUT,
        None,
    ),
    "prompt/completion CSV": (
        "mine.csv",
        as_csv,
        lambda n: {"prompt": f"q{n}", "completion": f"a{n}"},
        SINGLE,
        None,
    ),
    "question/answer Parquet": (
        "mine.parquet",
        as_parquet,
        lambda n: {"question": f"q{n}", "answer": f"a{n}"},
        SINGLE,
        None,
    ),
    "messages": (
        "mine.json",
        as_json,
        lambda n: {"messages": turns("role", "content", ROLES, n)},
        TALK,
        None,
    ),
    "messages Parquet": (
        "mine.parquet",
        as_parquet,
        lambda n: {"messages": turns("role", "content", ROLES, n)},
        TALK,
        None,
    ),
    "ShareGPT": (
        "mine.json",
        as_json,
        lambda n: {"conversations": turns("from", "value", ("system", "human", "gpt"), n)},
        TALK,
        None,
    ),
    "own keys": (
        "mine.json",
        as_json,
        lambda n: {"data": {"frage": f"q{n}"}, "antwort": f"a{n}"},
        SINGLE,
        {"instruction": "data.frage", "output": "antwort"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_of_each_shape_gives_its_example(
    tmp_path: Path, tokenizer: tiktoken.Encoding, name: str
) -> None:
    file, write, item, expected, fields = CASES[name]
    (tmp_path / file).write_bytes(write([item(n) for n in range(10)]))
    config = DataConfig("file", str(tmp_path / file), fields=fields, split=[0.8, 0.1, 0.1])
    source = load_source(config)
    parts = part_rows(source, config, [])
    splits = load_splits(source, parts, PROMPTS["chatml"], tokenizer, None, 1024, True)
    assert [len(split.examples) for split in splits.values()] == [8, 1, 1]
    assert example_text(splits["train"], tokenizer) == expected.replace("{n}", "0")


def test_plain_text_is_learned_as_it_is(tmp_path: Path, tokenizer: tiktoken.Encoding) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"text": "Once upon"}\n{"text": "a time"}\n')
    source = load_source(config := DataConfig("file", str(path), split=[1, 0, 0]))
    parts = part_rows(source, config, [])
    splits = load_splits(source, parts, "", tokenizer, None, 1024, False)
    assert example_text(splits["train"], tokenizer).replace("⟦", "") == "Once upon<|endoftext|>⟧"
