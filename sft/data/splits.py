"""Train, test and validation: records are split in file order, then each part is tokenised."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tiktoken
from numpy.typing import NDArray

from sft.data.batches import Examples, as_examples, longest
from sft.data.records import Record
from sft.data.sources import Source
from sft.data.tokens import Texts, load_texts, tokenise
from sft.errors import InputError, counted


@dataclass(frozen=True)
class Split:
    """One part of the data.

    Attributes:
        examples: the rows that the model reads.
        questions: (records,), equal numbers for equal questions.
        first: the first record, to be shown; None if there is none.
    """

    examples: Examples
    questions: NDArray[np.uint64]
    first: Record | None


def split_rows(count: int, fractions: Sequence[float]) -> dict[str, range]:
    """Split `count` records, in their order, into train, test and validation.

    Validation gets the records that rounding leaves over. If it has no share, train gets them.

    Raises:
        InputError: a split with a share gets no record.
    """
    # 100 * 0.29 is 28.999999999999996, which must not become 28.
    train = int(count * fractions[0] + 1e-6)
    test = int(count * fractions[1] + 1e-6)
    if fractions[2] == 0:
        train = count - test
    rows = {
        "train": range(train),
        "test": range(train, train + test),
        "validation": range(train + test, count),
    }

    for (name, part), fraction in zip(rows.items(), fractions, strict=True):
        if fraction > 0 and not part:
            raise InputError(
                f"data.split: {list(fractions)} of {counted(count, 'record')} leaves none for "
                f"{name}; raise its share, give it 0, or use more records"
            )
    return rows


def split_records(records: list[Record], fractions: Sequence[float]) -> dict[str, list[Record]]:
    """Split records that are in memory, as `split_rows` does."""
    rows = split_rows(len(records), fractions)
    return {name: records[part.start : part.stop] for name, part in rows.items()}


def load_splits(
    source: Source,
    parts: dict[str, range],
    template: str,
    tokenizer: tiktoken.Encoding,
    max_length: int | None,
    context: int,
    mask_prompt: bool,
) -> dict[str, Split]:
    """Tokenise every split of a source, or take its tokens from the cache.

    The records need not be in memory. Arguments and errors are otherwise those of `encode_splits`.
    """
    max_length = longest(max_length, context)
    filled = [name for name, part in parts.items() if part]
    shown = [parts[name].start for name in filled]
    texts, records = load_texts(source, shown, template, tokenizer)
    first = dict(zip(filled, records, strict=True))

    splits: dict[str, Split] = {}
    for name, part in parts.items():
        splits[name] = _split(
            name,
            texts.part(part),
            first.get(name),
            tokenizer.eot_token,
            max_length,
            mask_prompt,
        )
    return splits


def encode_splits(
    parts: dict[str, list[Record]],
    template: str,
    tokenizer: tiktoken.Encoding,
    max_length: int | None,
    context: int,
    mask_prompt: bool,
) -> dict[str, Split]:
    """Tokenise every split for a model that reads `context` tokens.

    Args:
        max_length: the most tokens that are kept of a record; None: the context.

    Raises:
        InputError: `max_length` is more than the context, or no record of a split keeps an answer.
    """
    max_length = longest(max_length, context)
    splits: dict[str, Split] = {}
    for name, records in parts.items():
        texts = tokenise(records, template, tokenizer)
        first = records[0] if records else None
        splits[name] = _split(name, texts, first, tokenizer.eot_token, max_length, mask_prompt)
    return splits


def _split(
    name: str, texts: Texts, first: Record | None, eot: int, max_length: int, mask_prompt: bool
) -> Split:
    examples = as_examples(texts, eot, max_length, mask_prompt)
    if first and not len(examples):
        raise InputError(
            f"data.max_length: {max_length} tokens leave no answer in the {name} split; raise it"
        )
    return Split(examples, texts.questions, first)
