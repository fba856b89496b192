"""Token ids and labels, written out by hand, and the arithmetic of splits.

The tokenizer `letters` gives each byte its own id, and the end token 256: "ab:" is 97 98 58, and
"xyz" is 120 121 122.
"""

import os
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiktoken
import torch
from torch.utils.data import DataLoader

from sft.data.batches import Batch, Examples, encode
from sft.data.overview import overview
from sft.data.prompt import render
from sft.data.records import Record, stream_records
from sft.data.splits import Split, encode_splits
from sft.errors import InputError
from sft.gpt2.tokenizer import load_tokenizer
from sft.prompts import PROMPTS
from tests.fixtures.divided import divided

REAL = Path(os.environ["SFT_DATA_DIR"]) if "SFT_DATA_DIR" in os.environ else None
TEMPLATE = "{{ instruction }}:"
XYZ, Q = Record("ab", "", "xyz"), Record("c", "", "q")
END, NO = 256, -100


def batch(
    letters: tiktoken.Encoding,
    records: list[Record],
    mask: bool,
    max_length: int = 100,
    multiple: int = 1,
    template: str = TEMPLATE,
) -> tuple[list[list[int]], list[list[int]], list[int]]:
    """input_ids, labels and lengths of all records that are kept."""
    examples = encode(records, template, letters, max_length, mask)
    found = examples.batch(range(len(examples)), multiple=multiple)
    return found.input_ids.tolist(), found.labels.tolist(), found.lengths.tolist()


# max_length, multiple, mask, and the input_ids and labels of "ab:xyz". With 6 tokens the row just
# fits. With fewer it is cut and has no end token. Padding never goes beyond max_length.
CASES = [
    (100, 1, False, [97, 98, 58, 120, 121, 122], [98, 58, 120, 121, 122, END]),
    (100, 1, True, [97, 98, 58, 120, 121, 122], [NO, NO, 120, 121, 122, END]),
    (6, 1, False, [97, 98, 58, 120, 121, 122], [98, 58, 120, 121, 122, END]),
    (6, 1, True, [97, 98, 58, 120, 121, 122], [NO, NO, 120, 121, 122, END]),
    (5, 1, False, [97, 98, 58, 120, 121], [98, 58, 120, 121, 122]),
    (5, 1, True, [97, 98, 58, 120, 121], [NO, NO, 120, 121, 122]),
    (4, 1, True, [97, 98, 58, 120], [NO, NO, 120, 121]),
    (3, 1, False, [97, 98, 58], [98, 58, 120]),
    (3, 1, True, [97, 98, 58], [NO, NO, 120]),
    (100, 4, False, [97, 98, 58, 120, 121, 122, END, END], [98, 58, 120, 121, 122, END, NO, NO]),
    (100, 4, True, [97, 98, 58, 120, 121, 122, END, END], [NO, NO, 120, 121, 122, END, NO, NO]),
    (100, 6, True, [97, 98, 58, 120, 121, 122], [NO, NO, 120, 121, 122, END]),
    (4, 4, True, [97, 98, 58, 120], [NO, NO, 120, 121]),
    (3, 4, False, [97, 98, 58], [98, 58, 120]),
    (7, 4, False, [97, 98, 58, 120, 121, 122, END], [98, 58, 120, 121, 122, END, NO]),
]


@pytest.mark.parametrize(("max_length", "multiple", "mask", "ids", "labels"), CASES)
def test_one_row_is_shifted_masked_cut_and_padded(
    letters: tiktoken.Encoding,
    max_length: int,
    multiple: int,
    mask: bool,
    ids: list[int],
    labels: list[int],
) -> None:
    length = min(6, max_length)
    assert batch(letters, [XYZ], mask, max_length, multiple) == ([ids], [labels], [length])


@pytest.mark.parametrize("mask", [False, True])
def test_a_row_that_keeps_no_answer_is_dropped(letters: tiktoken.Encoding, mask: bool) -> None:
    examples = encode([XYZ, Q, XYZ], TEMPLATE, letters, max_length=2, mask_prompt=mask)
    assert (len(examples), examples.dropped, examples.cut) == (1, 2, 1)
    found = examples.batch([0])
    assert found.input_ids.tolist() == [[99, 58]]
    assert found.labels.tolist() == [[NO if mask else 58, 113]]
    assert found.records.tolist() == [1]


@pytest.mark.parametrize(
    ("multiple", "ids", "labels"),
    [
        (1, [99, 58, 113, END, END, END], [58, 113, END, NO, NO, NO]),
        (8, [99, 58, 113, END, END, END, END, END], [58, 113, END, NO, NO, NO, NO, NO]),
    ],
)
def test_padding_has_no_label_and_the_end_token_has_one(
    letters: tiktoken.Encoding, multiple: int, ids: list[int], labels: list[int]
) -> None:
    found = batch(letters, [XYZ, Q], False, multiple=multiple)
    assert (found[0][1], found[1][1]) == (ids, labels)
    assert found[2] == [6, 3]
    masked = batch(letters, [XYZ, Q], True, multiple=multiple)
    assert (masked[0], masked[1][1]) == (found[0], [NO, *labels[1:]])


def test_rows_come_in_the_order_asked_for(letters: tiktoken.Encoding) -> None:
    examples = encode([XYZ, Q, Record("d", "", "")], TEMPLATE, letters, 100, False)
    found = examples.batch([2, 0, 2])
    assert found.records.tolist() == [2, 0, 2]
    assert found.lengths.tolist() == [2, 6, 2]
    assert found.input_ids[0].tolist() == [100, 58, END, END, END, END]
    assert (found.input_ids.dtype, found.labels.dtype) == (torch.int64, torch.int64)


def test_no_rows_give_a_filler_row_without_a_label(letters: tiktoken.Encoding) -> None:
    found = encode([XYZ], TEMPLATE, letters, 100, False).batch([], totals=(7, 9))
    assert [part.tolist() for part in found[:4]] == [[[END]], [[NO]], [1], [-1]]
    assert found[4:6] == (7, 9)


def test_a_batch_can_override_the_mask_of_its_split(letters: tiktoken.Encoding) -> None:
    for made in (False, True):
        examples = encode([XYZ], TEMPLATE, letters, 100, made)
        assert examples.batch([0], mask_prompt=True).labels.tolist() == [
            [NO, NO, 120, 121, 122, END]
        ]
        assert examples.batch([0], mask_prompt=False).labels.tolist() == [
            [98, 58, 120, 121, 122, END]
        ]
        assert examples.targets().tolist() == [4 if made else 6]


@pytest.mark.parametrize("mask", [False, True])
def test_plain_text_is_learned_but_for_its_first_token(
    letters: tiktoken.Encoding, mask: bool
) -> None:
    found = batch(letters, [Record("", "", "xyz"), Record("?", "?", "")], mask, template="")
    assert found == ([[120, 121, 122]], [[121, 122, END]], [3])


def test_an_empty_answer_is_an_end_token(letters: tiktoken.Encoding) -> None:
    assert batch(letters, [Record("ab", "", "")], True) == ([[97, 98, 58]], [[NO, NO, END]], [3])


def test_the_end_tokens_name_in_a_record_is_text(letters: tiktoken.Encoding) -> None:
    name = "<|endoftext|>"
    examples = encode([Record(name, "", name)], TEMPLATE, letters, 100, True)
    text = [*name.encode(), 58, *name.encode(), END]
    assert examples.tokens.tolist() == text
    assert text.count(END) == 1
    assert examples.batch([0]).labels[0, -1] == END


def test_lengths_and_targets_agree_with_the_batches(letters: tiktoken.Encoding) -> None:
    draw = random.Random(0)
    records = [Record("i" * draw.randint(1, 9), "", "o" * draw.randint(0, 9)) for _ in range(60)]
    for max_length in (2, 5, 9, 17, 18, 100):
        for mask in (False, True):
            examples = encode(records, TEMPLATE, letters, max_length, mask)
            found = examples.batch(range(len(examples)), multiple=5)
            lengths = found.lengths.tolist()
            assert examples.lengths().tolist() == lengths
            assert examples.targets().tolist() == (found.labels != NO).sum(1).tolist()
            assert max(lengths) <= max_length
            cut = 0
            for row, (length, record) in enumerate(
                zip(lengths, found.records.tolist(), strict=True)
            ):
                whole = [*f"{records[record].instruction}:{records[record].output}".encode(), END]
                assert found.input_ids[row, :length].tolist() == whole[:length]
                assert found.labels[row, length - 1] == whole[length]
                assert (found.labels[row, length:] == NO).all()
                cut += len(whole) > length + 1
            assert (examples.cut, examples.dropped) == (cut, len(records) - len(examples))
            longer = [
                i for i, record in enumerate(records) if len(record.instruction) + 1 > max_length
            ]
            assert sorted({*range(60)} - {*found.records.tolist()}) == longer


def test_no_records_give_no_rows(letters: tiktoken.Encoding) -> None:
    examples = encode([], TEMPLATE, letters, 10, False)
    assert (len(examples), examples.lengths().tolist(), examples.targets().tolist()) == (0, [], [])


# Splits


def records(count: int) -> list[Record]:
    return [Record(str(i), "", str(i)) for i in range(count)]


def sizes(count: int, *fractions: float) -> tuple[int, ...]:
    return tuple(len(part) for part in divided(records(count), fractions).values())


@pytest.mark.parametrize(
    ("count", "fractions", "expected"),
    [
        (1100, (0.85, 0.10, 0.05), (935, 110, 55)),
        (1000, (0.8, 0.1, 0.1), (800, 100, 100)),
        (52002, (0.85, 0.10, 0.05), (44201, 5200, 2601)),
        (100, (0.57, 0.29, 0.14), (57, 29, 14)),
        (10, (0.7, 0.2, 0.1), (7, 2, 1)),
        (11, (0.7, 0.2, 0.1), (7, 2, 2)),
        (10, (1, 0, 0), (10, 0, 0)),
        (15, (0.9, 0.1, 0), (14, 1, 0)),
        (15, (0.9, 0, 0.1), (13, 0, 2)),
        (1, (1.0, 0.0, 0.0), (1, 0, 0)),
    ],
)
def test_rounding_gives_each_split_its_share(
    count: int, fractions: tuple[float, ...], expected: tuple[int, ...]
) -> None:
    assert sizes(count, *fractions) == expected


def test_shares_in_hundredths_are_exact() -> None:
    for percent in range(1, 99):
        assert sizes(100, percent / 100, (99 - percent) / 100, 0.01)[:2] == (percent, 99 - percent)


def test_splits_keep_the_order_and_every_record() -> None:
    parts = divided(records(1100), [0.85, 0.10, 0.05])
    assert list(parts) == ["train", "test", "validation"]
    assert [record.output for part in parts.values() for record in part] == [
        str(i) for i in range(1100)
    ]


@pytest.mark.parametrize(
    ("count", "fractions", "name"),
    [(9, [0.85, 0.10, 0.05], "test"), (1, [0.9, 0, 0.1], "train")],
)
def test_an_empty_split_is_refused(count: int, fractions: list[float], name: str) -> None:
    with pytest.raises(InputError) as error:
        divided(records(count), fractions)
    assert str(error.value).startswith(f"data.split: {fractions} of {count} record")
    assert f" {name};" in str(error.value)


def test_max_length_is_the_context_unless_it_is_given(letters: tiktoken.Encoding) -> None:
    parts = {"train": [XYZ, Q], "test": [], "validation": []}
    assert encode_splits(parts, TEMPLATE, letters, None, 4, False)[
        "train"
    ].examples.lengths().tolist() == [4, 3]
    assert encode_splits(parts, TEMPLATE, letters, 3, 4, False)[
        "train"
    ].examples.lengths().tolist() == [3, 3]
    splits = encode_splits(parts, TEMPLATE, letters, 4, 4, False)
    assert [split.first for split in splits.values()] == [XYZ, None, None]


@pytest.mark.parametrize(
    ("max_length", "context", "message"),
    [
        (5, 4, r"^data.max_length: 5 .* context of 4 "),
        (1, 4, r"^data.max_length: 1 .* test split"),
    ],
)
def test_a_max_length_that_cannot_be_names_the_reason(
    letters: tiktoken.Encoding, max_length: int, context: int, message: str
) -> None:
    parts = {"train": [Record("", "", "x")], "test": [XYZ, Q], "validation": []}
    with pytest.raises(InputError, match=message):
        encode_splits(parts, TEMPLATE, letters, max_length, context, False)


# The published instructions, with GPT-2's own tokenizer

real = pytest.mark.skipif(
    REAL is None, reason="needs the 1,100 instructions and GPT-2's vocabulary in SFT_DATA_DIR"
)


@pytest.fixture(scope="module")
def gpt2() -> tiktoken.Encoding:
    assert REAL is not None
    return load_tokenizer(REAL / "gpt2-vocab")


@pytest.fixture(scope="module")
def published(gpt2: tiktoken.Encoding) -> dict[str, Split]:
    assert REAL is not None
    path = REAL / "instruction-data.json"
    with path.open("rb") as file:
        records = list(stream_records(file, path))
    parts = divided(records, [0.85, 0.10, 0.05])
    return encode_splits(parts, PROMPTS["alpaca"], gpt2, None, 1024, mask_prompt=False)


@real
def test_the_published_data_has_the_published_numbers(published: dict[str, Split]) -> None:
    examples = published["train"].examples
    lengths = examples.lengths()
    assert (lengths.min(), lengths.max(), np.median(lengths), round(lengths.mean(), 1)) == (
        40,
        91,
        56,
        56.4,
    )

    # The tokens of "\n\n### Response:\n", which belongs to the prompt.
    header = 6
    assert round(100 * examples.prompts.sum() / lengths.sum()) == 79
    assert round(100 * (examples.prompts - header).sum() / lengths.sum()) == 68
    numbers = overview(published)
    assert [numbers[name]["records"] for name in ("train", "test", "validation")] == [935, 110, 55]
    assert [numbers[name]["duplicates"] for name in ("test", "validation")] == [2, 4]
    assert all(row["cut"] == row["dropped"] == 0 for row in numbers.values())


@real
def test_prompt_and_answer_encoded_apart_are_as_encoded_together(
    published: dict[str, Split], gpt2: tiktoken.Encoding
) -> None:
    assert REAL is not None
    examples = published["train"].examples
    with (REAL / "instruction-data.json").open("rb") as file:
        records = list(stream_records(file, "instructions"))[:935]
    for i, record in enumerate(records):
        whole = gpt2.encode_ordinary(render(PROMPTS["alpaca"], record) + record.output)
        assert examples.text(i).tolist() == [*whole, 50256]
    assert len(examples) == 935


@real
def test_the_published_batches_have_the_published_widths(published: dict[str, Split]) -> None:
    examples: Examples = published["train"].examples

    def collate(rows: list[int]) -> Batch:
        return examples.batch(rows)

    rows = list(range(len(examples)))
    loader = DataLoader(rows, batch_size=8, shuffle=True, drop_last=True, collate_fn=collate)  # type: ignore[arg-type]
    torch.manual_seed(123)
    batches = iter(loader)
    assert [next(batches).input_ids.shape[1] for _ in range(8)] == [61, 76, 73, 68, 65, 72, 80, 67]


def test_the_weight_of_prompts_is_in_the_targets_and_answers_are_marked(
    letters: tiktoken.Encoding,
) -> None:
    examples = encode([XYZ, Q], TEMPLATE, letters, 100, False)
    assert examples.targets().tolist() == [6, 3]

    # "ab:xyz" has the labels b : x y z E, and "c:q" has : q E.
    weighted = replace(examples, prompt_weight=0.25)
    assert weighted.targets().tolist() == [4 + 0.5, 2 + 0.25]
    found = weighted.batch([0, 1])
    assert found.answers is not None
    assert found.answers.tolist() == [
        [False, False, True, True, True, True],
        [False, True, True, False, False, False],
    ]
    assert torch.equal(found.labels, examples.batch([0, 1]).labels)
    assert encode([XYZ], TEMPLATE, letters, 100, True).batch([0]).answers is None
