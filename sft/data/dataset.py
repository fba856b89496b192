"""Records as token ids, and batches of them: the next-token shift, the prompt mask and the padding, all here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tiktoken
import torch
from numpy.typing import NDArray
from torch import Tensor

from sft.config import InputError
from sft.data.prompt import render
from sft.data.sources import Record

IGNORE_INDEX = -100  # torch's own default for "no loss here"


class Batch(NamedTuple):
    """A micro-batch. Position j of a row holds the token j of the text and, as its label, the token j + 1."""

    input_ids: Tensor  # (B, T), padded on the right
    labels: Tensor  # (B, T), IGNORE_INDEX where nothing is learned
    lengths: Tensor  # (B,), real tokens of each row
    records: Tensor  # (B,), each row's place in the file's order within its split; -1 for a filler row
    step_targets: int  # labels in the whole optimizer step that this batch is a part of, on all ranks
    step_tokens: int  # real tokens in it, likewise


@dataclass(frozen=True)
class Examples:
    """The token ids of a split: prompt, response and end token of every record, one after the other.

    Row i's text is `tokens[starts[i]:starts[i + 1]]`, of which the first `prompts[i]` tokens are the prompt;
    `records[i]` is its record's place in the split. Rows that lost their end token (`cut`) or were left out altogether
    (`dropped`) are counted.
    """

    tokens: NDArray[np.int32]  # (all tokens,)
    starts: NDArray[np.int64]  # (rows + 1,)
    prompts: NDArray[np.int32]  # (rows,)
    records: NDArray[np.int64]  # (rows,)
    eot: int
    mask_prompt: bool
    cut: int
    dropped: int

    def __len__(self) -> int:
        return len(self.prompts)

    def lengths(self) -> NDArray[np.int64]:
        """Tokens that the model reads of each row, (rows,): all of the text but its last token."""
        return self.starts[1:] - self.starts[:-1] - 1

    def targets(self) -> NDArray[np.int64]:
        """Tokens that are learned of each row, (rows,)."""
        counts: NDArray[np.int64] = self.lengths() + 1 - self._first_targets(self.mask_prompt)
        return counts

    def _first_targets(self, mask_prompt: bool) -> NDArray[np.int32]:
        """Where in each text the learned part begins; nothing predicts the text's first token."""
        return np.maximum(self.prompts, 1) if mask_prompt else np.ones_like(self.prompts)

    def batch(
        self, rows: Sequence[int], mask_prompt: bool | None = None, multiple: int = 1, totals: tuple[int, int] = (0, 0)
    ) -> Batch:
        """Collate rows, padded to the longest of them or on to a multiple of `multiple`.

        No rows give a filler of one token without a label, so that every rank has a batch for every micro-step.

        Args:
            mask_prompt: learn the response alone; None: as the examples were made.
            totals: the step's targets and tokens, passed on.
        """
        mask_prompt = self.mask_prompt if mask_prompt is None else mask_prompt
        if not len(rows):
            one = torch.ones(1, dtype=torch.long)
            return Batch(one[None] * self.eot, one[None] * IGNORE_INDEX, one, -one, *totals)
        texts = [self.tokens[self.starts[row] : self.starts[row + 1]] for row in rows]
        lengths = torch.tensor([len(text) - 1 for text in texts])
        width = -(-int(lengths.max()) // multiple) * multiple
        input_ids = torch.full((len(rows), width), self.eot)
        labels = torch.full((len(rows), width), IGNORE_INDEX)
        firsts = self._first_targets(mask_prompt)[list(rows)]
        for i, (ids, first) in enumerate(zip(texts, firsts, strict=True)):
            text = torch.from_numpy(ids.astype(np.int64))
            input_ids[i, : len(text) - 1] = text[:-1]
            labels[i, first - 1 : len(text) - 1] = text[first:]
        return Batch(input_ids, labels, lengths, torch.from_numpy(self.records[list(rows)]), *totals)


def encode(
    records: Sequence[Record], template: str, tokenizer: tiktoken.Encoding, max_length: int, mask_prompt: bool
) -> Examples:
    """Tokenise a split.

    Prompt and response are encoded apart, so that the border between them is exact, and joined, with the end token
    behind them. A row of more than `max_length` tokens, prompt and response together, is cut at its end and gets no end
    token; if that takes the whole response, the row is dropped.
    """
    prompts = tokenizer.encode_ordinary_batch([render(template, record) for record in records])
    responses = tokenizer.encode_ordinary_batch([record.output for record in records])
    texts: list[list[int]] = []
    kept: list[int] = []
    cut = 0
    for index, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        text = prompt + response + [tokenizer.eot_token]
        long = len(prompt) + len(response) > max_length
        text = text[: max_length + 1]  # the model reads one token fewer
        if len(text) > max(len(prompt), 1):
            texts.append(text)
            kept.append(index)
            cut += long
    return Examples(
        tokens=np.fromiter((token for text in texts for token in text), dtype=np.int32),
        starts=np.cumsum([0, *map(len, texts)], dtype=np.int64),
        prompts=np.array([len(prompts[index]) for index in kept], dtype=np.int32),
        records=np.array(kept, dtype=np.int64),
        eot=tokenizer.eot_token,
        mask_prompt=mask_prompt,
        cut=cut,
        dropped=len(records) - len(kept),
    )


@dataclass(frozen=True)
class Split:
    """One part of the data: its records and, row for row, what the model sees of them."""

    records: list[Record]
    examples: Examples


def split_records(records: list[Record], fractions: Sequence[float]) -> dict[str, list[Record]]:
    """Cut the records, in their order, into train, test and validation; what rounding leaves over goes to the last,
    or to train if the last has no share.

    Raises:
        InputError: a split that should hold something holds nothing.
    """
    # 100 * 0.29 is 28.999999999999996
    train, test = (int(len(records) * fraction + 1e-6) for fraction in fractions[:2])
    if fractions[2] == 0:
        train = len(records) - test
    parts = {"train": records[:train], "test": records[train : train + test], "validation": records[train + test :]}
    for (name, part), fraction in zip(parts.items(), fractions, strict=True):
        if fraction > 0 and not part:
            raise InputError(
                f"data.split: {list(fractions)} of {len(records)} records leaves none for {name}; "
                "raise its share, give it 0, or use more records"
            )
    return parts


def encode_splits(
    parts: dict[str, list[Record]],
    template: str,
    tokenizer: tiktoken.Encoding,
    max_length: int | None,
    context: int,
    mask_prompt: bool,
) -> dict[str, Split]:
    """Tokenise every split for a model that reads `context` tokens; `max_length` as in `encode`, None: the context.

    Raises:
        InputError: `max_length` is more than the context, or leaves no record of a split an answer.
    """
    if max_length is not None and max_length > context:
        raise InputError(f"data.max_length: {max_length} is more than the model's context of {context} tokens")
    splits: dict[str, Split] = {}
    for name, records in parts.items():
        examples = encode(records, template, tokenizer, max_length or context, mask_prompt)
        if records and not len(examples):
            raise InputError(
                f"data.max_length: {max_length or context} tokens leave no answer in the {name} split; raise it"
            )
        splits[name] = Split(records, examples)
    return splits
