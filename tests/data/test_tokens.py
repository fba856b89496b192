"""Records as tokens, in one pass; and from the cache, without a look at the records."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken

from sft.config.schema import DataConfig
from sft.data import sources, tokens
from sft.data.overview import overview
from sft.data.prompt import prompt_tokens, render, usable_template
from sft.data.records import Record
from sft.data.sources import load_source
from sft.data.splits import Split, encode_splits, load_splits, split_rows
from sft.data.tokens import Texts, tokenise
from sft.errors import InputError
from tests.fixtures.divided import divided

TEMPLATE = "{{ instruction }}{% if input %}/{{ input }}{% endif %}:"
END = "<|endoftext|>"


def records(count: int, seed: int = 0) -> list[Record]:
    draw = random.Random(seed)
    return [
        Record(*(draw.choice(["", "the chef", "naïve 日本語 😀", "a" * 40, " \n "]) for _ in "123"))
        for _ in range(count)
    ]


def assert_right(texts: Texts, of: list[Record], tokenizer: tiktoken.Encoding) -> None:
    for i, record in enumerate(of):
        prompt = tokenizer.encode_ordinary(render(TEMPLATE, record))
        text = [*prompt, *tokenizer.encode_ordinary(record.output), tokenizer.eot_token]
        assert texts.tokens[texts.starts[i] :][: texts.sizes[i]].tolist() == text
        assert texts.prompts[i] == len(prompt)
        learned = texts.answers[texts.starts[i] :][: texts.sizes[i]].tolist()
        assert learned == [False] * len(prompt) + [True] * (len(text) - len(prompt))
    assert len(texts.answers) == len(texts.tokens)
    assert len(texts.prompts) == len(texts.questions) == len(of)


@pytest.mark.parametrize("chunk", [1, 7, 4096])
@pytest.mark.parametrize("odd", ["", END, "<|endof", f"{END}{END[:-1]}", "half a pair \ud83d"])
def test_records_in_chunks_are_as_encoded_one_by_one(
    tokenizer: tiktoken.Encoding, chunk: int, odd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "CHUNK", chunk)
    of = [*records(20), Record(odd, odd, odd), Record("text|>", "", "text|>"), *records(20, seed=1)]
    assert_right(tokenise(iter(of), TEMPLATE, tokenizer), of, tokenizer)


@pytest.mark.parametrize("blank", [" ", "\n", "\u3000"], ids=ascii)
def test_a_million_blanks_in_a_record(tokenizer: tiktoken.Encoding, blank: str) -> None:
    long = f"x{blank * 1_000_000}y"
    of = [*records(3), Record(long, "", "short"), Record("short", long, long), *records(3, seed=1)]
    assert_right(tokenise(of, TEMPLATE, tokenizer), of, tokenizer)


CHATML = (
    "{{ bos_token }}{% for message in messages %}\n"
    "{{ message.role }}: {{ message.content }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def test_a_chat_templates_end_tokens_do_not_end_the_prompt(tokenizer: tiktoken.Encoding) -> None:
    template = usable_template("x", None, CHATML, {"bos_token": END, "eos_token": END})
    assert template
    of = [Record("say", "a", f"b {END}"), Record(f"no {END}", "", "")]
    texts = tokenise(of, template, tokenizer)
    for i, record in enumerate(of):
        prompt = prompt_tokens(template, record, tokenizer)
        assert prompt.count(tokenizer.eot_token) == 2
        text = texts.tokens[texts.starts[i] :][: texts.sizes[i]].tolist()
        assert text == [*prompt, *tokenizer.encode_ordinary(record.output), tokenizer.eot_token]
        assert texts.prompts[i] == len(prompt)


def test_short_texts_are_encoded_in_one_call(
    tokenizer: tiktoken.Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiktoken.Encoding, "encode_ordinary", None)
    texts = tokenise(records(40), TEMPLATE, tokenizer)
    monkeypatch.undo()
    assert_right(texts, records(40), tokenizer)


def test_two_bytes_a_token_where_they_are_enough(letters: tiktoken.Encoding) -> None:
    byte = {bytes([i]): i for i in range(256)}
    for last, kind in ((65_535, np.uint16), (65_536, np.uint32)):
        wide = tiktoken.Encoding(
            "wide", pat_str=r"[\s\S]", mergeable_ranks=byte, special_tokens={END: last}
        )
        texts = tokenise([Record("ab", "", "c")], TEMPLATE, wide)
        assert texts.tokens.tolist() == [97, 98, 58, 99, last]
        assert texts.tokens.dtype == kind
    assert tokenise([], TEMPLATE, letters).tokens.tolist() == []


def test_equal_questions_get_equal_numbers(letters: tiktoken.Encoding) -> None:
    of = [Record("a", "b", "x"), Record("a", "b", "y"), Record("a", "", "x"), Record("", "a", "x")]
    of += [
        Record("", "", "x"),
        Record("", "", "x"),
        Record("", "", "y"),
        Record("ab", "", "x"),
        Record("x", "", ""),
    ]
    asked = tokenise(of, TEMPLATE, letters).questions.tolist()
    assert [asked.index(question) for question in asked] == [0, 0, 2, 3, 4, 4, 6, 7, 8]


# From the cache


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, in which also the smallest data is kept."""
    monkeypatch.setattr(sources, "SMALL", 0)
    monkeypatch.setenv("SFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "mine.json"
    path.write_text(
        json.dumps(
            [{"instruction": f"i{i % 40}", "input": "", "output": "x" * (i % 7)} for i in range(50)]
        )
    )
    return path


@pytest.fixture
def load(path: Path, tokenizer: tiktoken.Encoding) -> Callable[..., dict[str, Split]]:
    def load(
        split: tuple[float, ...] = (0.8, 0.2, 0.0),
        template: str = TEMPLATE,
        by: Any = tokenizer,
        **choices: Any,
    ) -> dict[str, Split]:
        source = load_source(DataConfig(source="json", path=str(path), **choices))
        return load_splits(
            source, split_rows(len(source.chosen), split), template, by, 6, 16, mask_prompt=True
        )

    return load


def same(one: dict[str, Split], other: dict[str, Split]) -> bool:
    return all(
        one[name].first == other[name].first
        and [one[name].examples.text(row).tolist() for row in range(len(one[name].examples))]
        == [other[name].examples.text(row).tolist() for row in range(len(other[name].examples))]
        and one[name].examples.records.tolist() == other[name].examples.records.tolist()
        for name in one
    ) and overview(one) == overview(other)


@pytest.mark.parametrize("sample", [None, 30])
def test_splits_from_a_file_are_those_from_memory(
    cache: Path,
    path: Path,
    load: Callable[..., Any],
    tokenizer: tiktoken.Encoding,
    sample: int | None,
) -> None:
    source = load_source(DataConfig(source="json", path=str(path), sample=sample))
    parts = divided(source.records, (0.8, 0.2, 0.0))
    expected = encode_splits(parts, TEMPLATE, tokenizer, 6, 16, mask_prompt=True)
    assert overview(expected)["train"]["cut"] > 0
    # The tokens are made, then found in the cache.
    for _ in range(2):
        assert same(load(sample=sample), expected)


def test_the_second_start_reads_no_record(
    cache: Path, load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load()
    monkeypatch.setattr(sources, "stream_records", None)
    monkeypatch.setattr(tokens, "tokenise", None)
    assert same(load(), first)


@pytest.mark.parametrize(
    "change",
    [
        {"template": "{{ instruction }}?"},
        {"split": (0.5, 0.5, 0.0)},
        {"sample": 30},
        {"sample": 30, "sample_seed": 5},
        {"by": "letters"},
    ],
)
def test_each_setting_of_the_tokens_is_part_of_their_name(
    cache: Path, load: Callable[..., Any], letters: tiktoken.Encoding, change: dict[str, Any]
) -> None:
    load(), load(sample=30)
    before = set(cache.rglob("*.safetensors"))
    load(**change | ({"by": letters} if "by" in change else {}))
    assert len(set(cache.rglob("*.safetensors")) - before) == (change != {"sample": 30})


def test_names_in_the_cache_stay_valid(
    cache: Path, path: Path, load: Callable[..., Any], letters: tiktoken.Encoding
) -> None:
    """A new name would make every user read and tokenise large files again."""
    load(by=letters)
    found = {str(file.relative_to(cache)) for file in cache.rglob("*.safetensors")}
    assert found == {
        "tokens-2/5b199ff6ff397b3a340b77c4f0258865.safetensors",
        "tokens-2/contents-2c14befffa2d069bdcbc5ef88508c66c.safetensors",
    }


def test_another_content_of_the_same_size_is_read_again(
    cache: Path, path: Path, load: Callable[..., Any], letters: tiktoken.Encoding
) -> None:
    for old, new in (("i39", "i39"), ("i39", "i93")):
        path.write_text(path.read_text().replace(old, new))
        assert letters.decode(load(by=letters)["train"].examples.text(39)[:3].tolist()) == new
    assert len(list(cache.rglob("*.safetensors"))) == 4


def test_small_data_is_not_kept(
    cache: Path, load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "SMALL", 1 << 20)
    assert load()["train"].first == Record("i0", "", "")
    assert not cache.exists()


def test_an_error_leaves_nothing_in_the_cache(
    cache: Path, path: Path, load: Callable[..., Any]
) -> None:
    with pytest.raises(InputError, match=r"^prompt template: 'answer' is undefined"):
        load(template="{{ answer }}")
    path.write_text('[{"instruction": "a", "output": "b"}, 5]')
    with pytest.raises(InputError, match="record 2: a number instead of an object"):
        load()

    # The number of records in the first file is cached, and nothing else.
    assert len(list(cache.rglob("*.safetensors"))) == 1
