"""Records as token ids, and batches of them: the next-token shift, the prompt mask and the padding, all here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tiktoken
import torch
from numpy.typing import NDArray
from torch import Tensor

from sft.data.records import Record
from sft.data.sources import Source
from sft.data.tokens import Texts, load_texts, tokenise
from sft.errors import InputError

IGNORE_INDEX = -100  # torch's own default for "no loss here"


class Batch(NamedTuple):
    """A micro-batch. Position j of a row holds the token j of the text and, as its label, the token j + 1."""

    input_ids: Tensor  # (B, T), padded on the right
    labels: Tensor  # (B, T), IGNORE_INDEX where nothing is learned
    lengths: Tensor  # (B,), real tokens of each row
    records: (
        Tensor  # (B,), each row's place in the file's order within its split; -1 for a filler row
    )
    step_targets: (
        int  # labels in the whole optimizer step that this batch is a part of, on all ranks
    )
    step_tokens: int  # real tokens in it, likewise


@dataclass(frozen=True)
class Examples:
    """The token ids of a split, as far as the model reads them.

    Row i's text is `tokens[starts[i] : starts[i] + sizes[i]]`, of which the first `prompts[i]` tokens are the prompt;
    `records[i]` is its record's place in the split. Rows that lost their end token (`cut`) or were left out altogether
    (`dropped`) are counted.
    """

    tokens: NDArray[Any]  # (all tokens,)
    starts: NDArray[np.int64]  # (rows,)
    sizes: NDArray[np.int64]  # (rows,)
    prompts: NDArray[np.int32]  # (rows,)
    records: NDArray[np.int64]  # (rows,)
    eot: int
    max_length: int  # the most tokens that are read of a row
    mask_prompt: bool
    cut: int
    dropped: int

    def __len__(self) -> int:
        return len(self.prompts)

    def lengths(self) -> NDArray[np.int64]:
        """Tokens that the model reads of each row, (rows,): all of the text but its last token."""
        return self.sizes - 1

    def text(self, row: int) -> NDArray[Any]:
        """The tokens of a row."""
        start: int = self.starts[row]
        return self.tokens[start : start + self.sizes[row]]

    def targets(self) -> NDArray[np.int64]:
        """Tokens that are learned of each row, (rows,)."""
        counts: NDArray[np.int64] = self.lengths() + 1 - self._first_targets(self.mask_prompt)
        return counts

    def _first_targets(self, mask_prompt: bool) -> NDArray[np.int32]:
        """Where in each text the learned part begins; nothing predicts the text's first token."""
        return np.maximum(self.prompts, 1) if mask_prompt else np.ones_like(self.prompts)

    def batch(
        self,
        rows: Sequence[int],
        mask_prompt: bool | None = None,
        multiple: int = 1,
        totals: tuple[int, int] = (0, 0),
    ) -> Batch:
        """Collate rows, padded to the longest of them or on to a multiple of `multiple`, but not beyond `max_length`.

        No rows give a filler of one token without a label, so that every rank has a batch for every micro-step.

        Args:
            mask_prompt: learn the response alone; None: as the examples were made.
            totals: the step's targets and tokens, passed on.
        """
        mask_prompt = self.mask_prompt if mask_prompt is None else mask_prompt
        if not len(rows):
            one = torch.ones(1, dtype=torch.long)
            return Batch(one[None] * self.eot, one[None] * IGNORE_INDEX, one, -one, *totals)
        texts = [self.text(row) for row in rows]
        lengths = torch.tensor([len(text) - 1 for text in texts])
        width = min(-(-int(lengths.max()) // multiple) * multiple, self.max_length)
        input_ids = torch.full((len(rows), width), self.eot)
        labels = torch.full((len(rows), width), IGNORE_INDEX)
        firsts = self._first_targets(mask_prompt)[list(rows)]
        for i, (ids, first) in enumerate(zip(texts, firsts, strict=True)):
            text = torch.from_numpy(ids.astype(np.int64))
            input_ids[i, : len(text) - 1] = text[:-1]
            labels[i, first - 1 : len(text) - 1] = text[first:]
        return Batch(
            input_ids, labels, lengths, torch.from_numpy(self.records[list(rows)]), *totals
        )


def as_examples(texts: Texts, eot: int, max_length: int, mask_prompt: bool) -> Examples:
    """A row of more than `max_length` tokens, prompt and response together, is cut at its end and gets no end token;
    if that takes the whole response, the row is dropped."""
    whole = np.diff(texts.starts)
    sizes = np.minimum(whole, max_length + 1)  # the model reads one token fewer
    rows = np.flatnonzero(sizes > np.maximum(texts.prompts, 1))
    return Examples(
        tokens=texts.tokens,
        starts=texts.starts[rows],
        sizes=sizes[rows],
        prompts=texts.prompts[rows],
        records=rows,
        eot=eot,
        max_length=max_length,
        mask_prompt=mask_prompt,
        cut=int((whole > sizes)[rows].sum()),
        dropped=len(whole) - len(rows),
    )


def encode(
    records: Sequence[Record],
    template: str,
    tokenizer: tiktoken.Encoding,
    max_length: int,
    mask_prompt: bool,
) -> Examples:
    return as_examples(
        tokenise(records, template, tokenizer), tokenizer.eot_token, max_length, mask_prompt
    )


@dataclass(frozen=True)
class Split:
    """One part of the data, row for row as the model sees it, and what a look at it needs of its records."""

    examples: Examples
    questions: NDArray[np.uint64]  # (records,), the same number for the same question
    first: Record | None


def split_rows(count: int, fractions: Sequence[float]) -> dict[str, range]:
    """Cut that many records, in their order, into train, test and validation; what rounding leaves over goes to the
    last, or to train if the last has no share.

    Raises:
        InputError: a split that should hold something holds nothing.
    """
    # 100 * 0.29 is 28.999999999999996
    train, test = (int(count * fraction + 1e-6) for fraction in fractions[:2])
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
                f"data.split: {list(fractions)} of {count} records leaves none for {name}; "
                "raise its share, give it 0, or use more records"
            )
    return rows


def split_records(records: list[Record], fractions: Sequence[float]) -> dict[str, list[Record]]:
    """The records themselves, cut as `split_rows` says."""
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
    """As `encode_splits`, of records which are not in memory, and from the cache if they were tokenised before."""
    max_length = longest(max_length, context)
    texts, shown = load_texts(
        source, [part.start for part in parts.values() if part], template, tokenizer
    )
    first = dict(zip((name for name, part in parts.items() if part), shown, strict=True))
    return {
        name: _split(
            name, texts.part(part), first.get(name), tokenizer.eot_token, max_length, mask_prompt
        )
        for name, part in parts.items()
    }


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
        max_length: as in `as_examples`; None: the context.

    Raises:
        InputError: `max_length` is more than the context, or leaves no record of a split an answer.
    """
    max_length = longest(max_length, context)
    splits: dict[str, Split] = {}
    for name, records in parts.items():
        texts, first = tokenise(records, template, tokenizer), records[0] if records else None
        splits[name] = _split(name, texts, first, tokenizer.eot_token, max_length, mask_prompt)
    return splits


def longest(max_length: int | None, context: int) -> int:
    """The most tokens that are kept of a record; raises InputError for more than the model reads."""
    if max_length is not None and max_length > context:
        raise InputError(
            f"data.max_length: {max_length} is more than the model's context of {context} tokens"
        )
    return max_length or context


def _split(
    name: str, texts: Texts, first: Record | None, eot: int, max_length: int, mask_prompt: bool
) -> Split:
    examples = as_examples(texts, eot, max_length, mask_prompt)
    if first and not len(examples):
        raise InputError(
            f"data.max_length: {max_length} tokens leave no answer in the {name} split; raise it"
        )
    return Split(examples, texts.questions, first)
