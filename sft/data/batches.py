"""Token ids become batches here: the next-token shift, the prompt mask and the padding.

The record with the prompt "ab:" and the answer "xyz" becomes one row. Each letter stands for its
token, E for the end token, and . for IGNORE_INDEX, where there is no loss:

    text              a  b  :  x  y  z  E
    input_ids         a  b  :  x  y  z        all but the last token
    labels            b  :  x  y  z  E        the shift: position j predicts token j + 1
    labels, masked    .  .  x  y  z  E        mask_prompt: only the answer is learned

The shorter record "c:" and "q" beside it is padded on the right. Padding has the end token's id,
but no label, so the model still learns the one E that ends the answer:

    input_ids         c  :  q  E  E  E
    labels            :  q  E  .  .  .
    labels, masked    .  q  E  .  .  .

In a conversation each answer has its end token. The turns "ab:", "xy", "c:" and "z":

    text              a  b  :  x  y  E  c  :  z  E
    input_ids         a  b  :  x  y  E  c  :  z
    labels            b  :  x  y  E  c  :  z  E
    labels, masked    .  .  x  y  E  .  .  z  E     every answer is learned, with its end token
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tiktoken
import torch
from numpy.typing import NDArray
from torch import Tensor

from sft.data.records import Record
from sft.data.tokens import Texts, tokenise
from sft.errors import InputError

# The label of a position without a loss. It is torch's own default for this.
IGNORE_INDEX = -100


class Batch(NamedTuple):
    """A micro-batch of B rows and T positions. Position j of a row predicts the row's token j + 1.

    Attributes:
        input_ids: (B, T), padded on the right.
        labels: (B, T), IGNORE_INDEX where nothing is learned.
        lengths: (B,), the tokens of each row without its padding.
        records: (B,), each row's place in file order within its split; -1 for a filler row.
        step_targets: the number of labels in the batch's whole optimizer step, on all ranks. The
            step's loss is divided by it. A label of a prompt counts `Examples.prompt_weight`.
        step_tokens: tokens without padding in that step, on all ranks.
        reference: (B,), the log-probability of each row's labels before training. Only preferences
            have it.
        answers: (B, T), true where the label is an answer's; None: all labels are.
    """

    input_ids: Tensor
    labels: Tensor
    lengths: Tensor
    records: Tensor
    step_targets: float
    step_tokens: int
    reference: Tensor | None = None
    answers: Tensor | None = None


@dataclass(frozen=True)
class Examples:
    """The token ids of a split, cut to what the model reads, all rows in one array.

    The text of row i is `tokens[starts[i] : starts[i] + sizes[i]]`. Its last answer begins at its
    token `prompts[i]`, which may be cut off.

    Attributes:
        tokens: (all tokens,)
        answers: (all tokens,), true for the tokens of answers and for their end tokens.
        starts, sizes, prompts: (rows,)
        records: (rows,), the place of each row's record in its split.
        eot: the id of the end token.
        max_length: the most tokens that the model reads of a row.
        mask_prompt: learn the answers alone, not the prompts.
        cut: how many rows lost their end, and with it the end token.
        dropped: how many records have no row, since no answer was left.
        prompt_weight: what a label outside the answers counts for in the loss, from 0 to 1.
    """

    tokens: NDArray[Any]
    answers: NDArray[np.bool_]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    prompts: NDArray[np.int32]
    records: NDArray[np.int64]
    eot: int
    max_length: int
    mask_prompt: bool
    cut: int
    dropped: int
    prompt_weight: float = 1.0

    def __len__(self) -> int:
        return len(self.prompts)

    def lengths(self) -> NDArray[np.int64]:
        """Return how many tokens the model reads of each row, (rows,): all but the last."""
        return self.sizes - 1

    def text(self, row: int) -> NDArray[Any]:
        """Return the tokens of a row."""
        start: int = self.starts[row]
        return self.tokens[start : start + self.sizes[row]]

    def is_answer(self, row: int) -> NDArray[np.bool_]:
        """Return which tokens of a row are an answer's or its end token, (size of the row,)."""
        start: int = self.starts[row]
        return self.answers[start : start + self.sizes[row]]

    def targets(self) -> NDArray[np.int64] | NDArray[np.float64]:
        """Return the number of each row's labels, weighted, (rows,). Its loss is divided by it."""
        labels = self.labels_of_rows()
        if self.mask_prompt or self.prompt_weight == 1:
            return labels
        answers = self.answers_of_rows()
        weighted: NDArray[np.float64] = answers + self.prompt_weight * (labels - answers)
        return weighted

    def labels_of_rows(self) -> NDArray[np.int64]:
        """Return how many tokens of each row are learned, (rows,)."""
        return self.answers_of_rows() if self.mask_prompt else self.sizes - 1

    def answers_of_rows(self) -> NDArray[np.int64]:
        """Return how many tokens of each row are an answer's, but for its first token, (rows,)."""
        return _count(self.answers, self.starts + 1, self.starts + self.sizes)

    def rows_read(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return which rows the batch of some rows reads; preferences have two for each."""
        return rows

    def batch(
        self,
        rows: Sequence[int],
        mask_prompt: bool | None = None,
        multiple: int = 1,
        totals: tuple[float, int] = (0, 0),
    ) -> Batch:
        """Collate rows: shift, mask and pad them.

        The width is the longest row's, rounded up to a multiple of `multiple`, and at most
        `max_length`. Without rows, the batch is a filler row of one token without a label, so that
        every rank has a batch for every micro-step.

        Args:
            mask_prompt: learn the answers alone; None: as `self.mask_prompt` says.
            totals: `step_targets` and `step_tokens` of the batch.
        """
        if mask_prompt is None:
            mask_prompt = self.mask_prompt
        if not len(rows):
            one = torch.ones(1, dtype=torch.long)
            return Batch(one[None] * self.eot, one[None] * IGNORE_INDEX, one, -one, *totals)

        texts = [self.text(row) for row in rows]
        lengths = torch.tensor([len(text) - 1 for text in texts])
        width = -(-int(lengths.max()) // multiple) * multiple
        width = min(width, self.max_length)

        # Both begin as padding, on which the rows are then written.
        input_ids = torch.full((len(rows), width), self.eot)
        labels = torch.full((len(rows), width), IGNORE_INDEX)
        answers = torch.zeros((len(rows), width), dtype=torch.bool)

        # Token j is the label of position j - 1.
        for i, (row, ids) in enumerate(zip(rows, texts, strict=True)):
            text = torch.from_numpy(ids.astype(np.int64))
            length = len(text) - 1
            input_ids[i, :length] = text[:-1]
            labels[i, :length] = text[1:]
            answers[i, :length] = torch.from_numpy(self.is_answer(row)[1:])

        records = torch.from_numpy(self.records[list(rows)])
        batch = Batch(input_ids, labels, lengths, records, *totals)
        if mask_prompt:
            return batch._replace(labels=labels.masked_fill(~answers, IGNORE_INDEX))
        return batch._replace(answers=answers)


def _count(
    answers: NDArray[np.bool_], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Count the true values in ranges. A sum over all tokens would take much more memory."""
    ranges = zip(starts.tolist(), ends.tolist(), strict=True)
    counts = (np.count_nonzero(answers[start:end]) for start, end in ranges)
    return np.fromiter(counts, np.int64, len(starts))


def as_examples(
    texts: Texts, eot: int, max_length: int, mask_prompt: bool, drop_long: bool = False
) -> Examples:
    """Cut each text to `max_length` tokens, and drop the rows that keep no answer.

    The limit is for prompt and answer together. A row that is cut loses its end token. A record in
    pieces has a row for each, and counts as dropped if none of them is left.

    Args:
        drop_long: drop the rows that would be cut.
    """
    records, starts, whole, prompts = _rows(texts)

    # The last token of a text is only a label, so the model reads one token fewer.
    sizes = np.minimum(whole, max_length + 1)

    # The last answer is there, or else an earlier one must be. Nothing predicts the first token.
    keeps = sizes > np.maximum(prompts, 1)
    places = starts[~keeps]
    keeps[~keeps] = _count(texts.answers, places + 1, places + sizes[~keeps]) > 0
    if drop_long:
        keeps &= whole == sizes
    rows = np.flatnonzero(keeps)
    return Examples(
        tokens=texts.tokens,
        answers=texts.answers,
        starts=starts[rows],
        sizes=sizes[rows],
        prompts=prompts[rows],
        records=records[rows],
        eot=eot,
        max_length=max_length,
        mask_prompt=mask_prompt,
        cut=int((whole > sizes)[rows].sum()),
        dropped=len(texts.sizes) - len(np.unique(records[rows])),
    )


def _rows(texts: Texts) -> tuple[NDArray[Any], ...]:
    """Return each row's record, start, size and place of its last answer. A piece is a row."""
    records = np.arange(len(texts.sizes))
    if not len(texts.pieces):
        return records, texts.starts, texts.sizes, texts.prompts

    # Pieces of other records lie after all texts, or between them.
    order = np.argsort(texts.starts, kind="stable")
    place = np.searchsorted(texts.starts[order], texts.pieces, side="right") - 1
    owners = order[np.maximum(place, 0)]
    ends = texts.starts + texts.sizes
    inside = (place >= 0) & (texts.pieces < ends[owners])
    of_pieces = owners[inside]

    records = np.concatenate([records, of_pieces])
    starts = np.concatenate([texts.starts, texts.pieces[inside]])
    order = np.lexsort((starts, records))
    records = records[order]
    starts = starts[order]

    # A row ends where the next one of its record begins, or with its record.
    sizes = ends[records] - starts
    follows = np.flatnonzero(records[:-1] == records[1:])
    sizes[follows] = starts[follows + 1] - starts[follows]

    # The last answer is the run of answer tokens at the end.
    prompts = np.empty(len(records), dtype=np.int32)
    for row, (start, size) in enumerate(zip(starts.tolist(), sizes.tolist(), strict=True)):
        others = np.flatnonzero(~texts.answers[start : start + size])
        prompts[row] = others[-1] + 1 if len(others) else 0
    return records, starts, sizes, prompts


def encode(
    records: Sequence[Record],
    template: str,
    tokenizer: tiktoken.Encoding,
    max_length: int,
    mask_prompt: bool,
) -> Examples:
    """Tokenise records that are in memory; the limit is as in `as_examples`."""
    texts = tokenise(records, template, tokenizer)
    return as_examples(texts, tokenizer.eot_token, max_length, mask_prompt)


def longest(max_length: int | None, context: int) -> int:
    """Return how many tokens of a record are kept: `max_length`, or the context if it is None.

    Raises:
        InputError: the model does not read this many tokens.
    """
    if max_length is not None and max_length > context:
        raise InputError(
            f"data.max_length: {max_length} is more than the model's context of {context} tokens"
        )
    return max_length or context
