"""Train, test and validation: which records each gets, and its tokens.

`DEALERS` says how records are divided. To add a way, add it there and to `SplitBy` in the schema.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import tiktoken
from numpy.typing import NDArray

from sft.config.schema import DataConfig, TooLong
from sft.data.batches import Examples, as_examples, longest
from sft.data.records import Record
from sft.data.selection import selected
from sft.data.sources import OWN, Indices, Source
from sft.data.tokens import Texts, load_texts, tokenise
from sft.errors import InputError, counted


@dataclass(frozen=True)
class Split:
    """One part of the data.

    Attributes:
        examples: the rows that the model reads.
        questions: (records,), equal numbers for equal questions.
        entries: (records,), the number of each record's path in data.path.
        empty: how many answers say nothing.
        first: the first record, to be shown; None if there is none.
    """

    examples: Examples
    questions: NDArray[np.uint64]
    entries: Indices
    empty: int
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


def part_rows(
    source: Source, data: DataConfig, notes: list[str] | None = None
) -> dict[str, Indices]:
    """Return which of the source's records form train, test and validation, in file order.

    A split with records of its own takes no others. The shares of the others keep their proportion.

    Args:
        notes: takes lines on how the records were divided and which were left out.

    Raises:
        InputError: a split with a share gets no record, or no record has a category to split by.
    """
    own = {name: rows for name in OWN if len(rows := source.rows_of(name))}
    divided = source.rows_of(None)
    shares = [
        0.0 if name in own else share
        for name, share in zip(("train", *OWN), data.split, strict=True)
    ]
    total = sum(shares)
    if own:
        shares = [share / total for share in shares] if total else [1.0, 0.0, 0.0]
    sizes = split_rows(len(divided), shares)
    dealt = DEALERS[data.split_by](source, divided, sizes, data.split_seed)
    parts = {name: own.get(name, divided[places]) for name, places in dealt.items()}

    if notes is None:
        notes = []
    notes.append(split_text(source, data))
    return parts | {"train": selected(source, parts["train"], data, notes)}


def split_source(source: Source, data: DataConfig) -> dict[str, list[Record]]:
    """Return the records of each split, all in memory; errors are those of `part_rows`."""
    parts = part_rows(source, data)
    return {name: [source.records[row] for row in rows] for name, rows in parts.items()}


def split_text(source: Source, data: DataConfig) -> str:
    """Say how the records are divided, and warn if a sorted file is divided in its order."""
    own = [name for name in OWN if len(source.rows_of(name))]
    line = {
        "order": "split in file order (data.split_by=order)",
        "random": f"split at random (data.split_by=random, data.split_seed={data.split_seed})",
        "question": "split at random, nearly equal questions together (data.split_by=question, "
        f"data.split_seed={data.split_seed})",
        "category": "split at random, each category by the same shares (data.split_by=category, "
        f"data.split_seed={data.split_seed})",
    }[data.split_by]
    if own:
        line += f"; {' and '.join(own)}: records of their own"
    if data.split_by == "order" and source.is_sorted and data.split[0] < 1:
        line += (
            "\nwarning: the file is sorted by category and split in its order, so the splits hold "
            "different categories; data.split_by=category or random mixes them"
        )
    return line


# Ways to divide records: the source, which of its records, the ranges whose sizes the splits are to
# have, and the seed. Each split gets places among the records, ascending.
Dealer = Callable[[Source, Indices, dict[str, range], int], dict[str, Indices]]


def _in_order(
    source: Source, divided: Indices, sizes: dict[str, range], seed: int
) -> dict[str, Indices]:
    return {name: np.arange(part.start, part.stop) for name, part in sizes.items()}


def _at_random(
    source: Source, divided: Indices, sizes: dict[str, range], seed: int
) -> dict[str, Indices]:
    order = np.random.default_rng(seed).permutation(len(divided))
    return {name: np.sort(order[part.start : part.stop]) for name, part in sizes.items()}


def _by_question(
    source: Source, divided: Indices, sizes: dict[str, range], seed: int
) -> dict[str, Indices]:
    """Deal groups of nearly equal questions, the larger first, otherwise in random order."""
    groups = source.measured("question groups", _question_groups)[divided]
    counts = np.bincount(groups)
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-counts[order], kind="stable")]
    split = np.empty(len(counts), dtype=np.int64)
    split[order] = _deal(counts[order].tolist(), [len(part) for part in sizes.values()])
    found = {name: np.flatnonzero(split[groups] == i) for i, name in enumerate(sizes)}
    for name, part in sizes.items():
        if len(part) and not len(found[name]):
            raise InputError(
                f"data.split_by: question leaves none of {len(divided)} records for {name}, as "
                "too many questions are nearly equal; use more records, or data.split_by=random"
            )
    return found


def _by_category(
    source: Source, divided: Indices, sizes: dict[str, range], seed: int
) -> dict[str, Indices]:
    """Deal the records of one category after the other, each in random order."""
    groups = _numbers(source, "category", lambda record: record.category or "")[divided]
    if not groups.any():
        raise InputError("data.split_by: no record has a category; use data.split_by=random")
    order = np.lexsort((np.random.default_rng(seed).random(len(groups)), groups))
    split = np.empty(len(groups), dtype=np.int64)
    split[order] = _deal([1] * len(groups), [len(part) for part in sizes.values()])
    return {name: np.flatnonzero(split == i) for i, name in enumerate(sizes)}


DEALERS: dict[str, Dealer] = {
    "order": _in_order,
    "random": _at_random,
    "question": _by_question,
    "category": _by_category,
}


def _deal(counts: Iterable[int], sizes: Sequence[int]) -> list[int]:
    """Deal groups of these sizes to splits of about these sizes. Return the split of each group.

    Each group goes to the split that it leaves the least full, by share. So every run of groups is
    divided in the proportion of the sizes (D'Hondt's method), and one large group goes to the
    largest split.
    """
    filled = [0] * len(sizes)
    open_ = [split for split, size in enumerate(sizes) if size]
    found = []
    for count in counts:
        best = min(open_, key=lambda split: (filled[split] + count) / sizes[split])
        filled[best] += count
        found.append(best)
    return found


def _question_groups(records: Iterator[Record]) -> Iterable[int]:
    """Number the groups of nearly equal questions."""
    # scipy takes a while to import, and no other way to split needs it.
    from sft.data.neighbours import compared_text, groups

    numbers: list[int] = groups([compared_text(record) for record in records]).tolist()
    return numbers


def _numbers(source: Source, name: str, key: Callable[[Record], str]) -> Indices:
    """Number the records by a key, (records,): equal numbers for equal keys, 0 for an empty key."""

    def numbers(records: Iterator[Record]) -> Iterator[int]:
        known = {"": 0}
        return (known.setdefault(key(record), len(known)) for record in records)

    return source.measured(name, numbers)


def load_splits(
    source: Source,
    parts: dict[str, Indices],
    template: str,
    tokenizer: tiktoken.Encoding,
    max_length: int | None,
    context: int,
    mask_prompt: bool,
    too_long: TooLong = "cut",
) -> dict[str, Split]:
    """Tokenise the rows of every split of a source, or take their tokens from the cache.

    The records need not be in memory. Arguments and errors are otherwise those of `encode_splits`.

    Args:
        too_long: what becomes of a longer record: its end is cut off, it is dropped, or it becomes
            several examples.
    """
    max_length = longest(max_length, context)
    filled = [name for name, rows in parts.items() if len(rows)]
    shown = [int(parts[name][0]) for name in filled]
    texts, records = load_texts(
        source, shown, template, tokenizer, max_length + 1 if too_long == "split" else None
    )
    entries = source.entries()
    first = dict(zip(filled, records, strict=True))

    splits: dict[str, Split] = {}
    for name, rows in parts.items():
        splits[name] = _split(
            name,
            texts.part(rows),
            entries[rows],
            first.get(name),
            tokenizer.eot_token,
            max_length,
            mask_prompt,
            drop_long=too_long == "drop",
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
        entries = np.zeros(len(records), dtype=np.int64)
        splits[name] = _split(
            name, texts, entries, first, tokenizer.eot_token, max_length, mask_prompt
        )
    return splits


def weighted(split: Split, prompt_weight: float) -> Split:
    """Return the split with a weight for the tokens outside the answers."""
    return replace(split, examples=replace(split.examples, prompt_weight=prompt_weight))


def _split(
    name: str,
    texts: Texts,
    entries: Indices,
    first: Record | None,
    eot: int,
    max_length: int,
    mask_prompt: bool,
    drop_long: bool = False,
) -> Split:
    examples = as_examples(texts, eot, max_length, mask_prompt, drop_long)
    if first and not len(examples):
        raise InputError(
            f"data.max_length: {max_length} tokens leave no answer in the {name} split; raise it"
        )
    return Split(examples, texts.questions, entries, int(texts.empty.sum()), first)
