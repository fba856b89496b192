"""Preferences as batches: of each record the chosen answer and the rejected one, as two rows.

A record with `chosen` and `rejected` is a `Record` whose output is the chosen answer. Its two rows
are counted as one wherever rows are planned, and come apart only in the batch:

    rows of the plan      0, 1
    rows of the batch     chosen 0, chosen 1, rejected 0, rejected 1
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tiktoken
import torch
from numpy.typing import NDArray

from sft.data.batches import Batch, Examples, as_examples, longest
from sft.data.records import Record
from sft.data.sources import Indices, Source
from sft.data.splits import Split
from sft.data.tokens import tokenise
from sft.errors import InputError


@dataclasses.dataclass(frozen=True)
class Pairs(Examples):
    """The pairs of a split. The arrays hold the rows of all chosen answers, then of all rejected.

    Attributes:
        reference: (rows,), the log-probability of each row's answer before training; None until
            it is computed.
    """

    reference: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.prompts) // 2

    def lengths(self) -> NDArray[np.int64]:
        """Return how many tokens the model reads of each pair, (pairs,)."""
        both: NDArray[np.int64] = super().lengths().reshape(2, -1).sum(0)
        return both

    def targets(self) -> NDArray[np.int64]:
        """Return ones, (pairs,): the loss of a step is divided by its number of pairs."""
        return np.ones(len(self), np.int64)

    def rows_read(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.concatenate([rows, rows + len(self)])

    def batch(
        self,
        rows: Sequence[int],
        mask_prompt: bool | None = None,
        multiple: int = 1,
        totals: tuple[float, int] = (0, 0),
    ) -> Batch:
        """Collate pairs. Whatever `mask_prompt` says, only answers have labels."""
        both = self.rows_read(np.array(rows, np.int64))
        batch = super().batch(both.tolist(), True, multiple, totals)
        if self.reference is None or not len(rows):
            return batch
        return batch._replace(reference=torch.from_numpy(self.reference[both]))


def as_pairs(chosen: Examples, rejected: Examples) -> Pairs:
    """Join the rows of records that keep both of their answers."""
    kept = np.intersect1d(chosen.records, rejected.records)
    rows = [np.isin(examples.records, kept) for examples in (chosen, rejected)]

    def joined(name: str) -> NDArray[Any]:
        parts = (chosen, rejected)
        found = [getattr(part, name)[row] for part, row in zip(parts, rows, strict=True)]
        if name == "starts":
            found[1] = found[1] + len(chosen.tokens)
        return np.concatenate(found)

    return Pairs(
        tokens=np.concatenate([chosen.tokens, rejected.tokens]),
        answers=np.concatenate([chosen.answers, rejected.answers]),
        starts=joined("starts"),
        sizes=joined("sizes"),
        prompts=joined("prompts"),
        records=joined("records"),
        eot=chosen.eot,
        max_length=chosen.max_length,
        mask_prompt=True,
        cut=chosen.cut + rejected.cut,
        dropped=len(chosen) + chosen.dropped - len(kept),
    )


def load_pairs(
    source: Source,
    parts: Mapping[str, Indices],
    template: str,
    tokenizer: tiktoken.Encoding,
    max_length: int | None,
    context: int,
) -> dict[str, Split]:
    """Tokenise the pairs of every split; arguments are those of `splits.load_splits`.

    Raises:
        InputError: a record has no rejected answer, or both are the same, or `max_length` leaves
            none.
    """
    max_length = longest(max_length, context)
    records = source.records
    for number, record in enumerate(records, 1):
        check_pair(record, f"{source.name}: record {number}")

    entries = source.entries()
    splits = {}
    for name, part in parts.items():
        of_split = [records[row] for row in part]
        rejected = [dataclasses.replace(one, output=one.rejected or "") for one in of_split]
        texts = [tokenise(some, template, tokenizer) for some in (of_split, rejected)]
        examples = as_pairs(
            *(as_examples(found, tokenizer.eot_token, max_length, True) for found in texts)
        )
        if of_split and not len(examples):
            raise InputError(
                f"data.max_length: {max_length} tokens leave no pair in the {name} split; raise it"
            )
        first = of_split[0] if of_split else None
        empty = int(texts[0].empty.sum())
        splits[name] = Split(examples, texts[0].questions, entries[part], empty, first)
    return splits


def check_pair(record: Record, where: str) -> None:
    """Raise InputError if a record does not have two different answers."""
    if record.rejected is None:
        raise InputError(
            f"{where}: no 'rejected', expected 'chosen' and 'rejected' for objective=dpo; such "
            "records come from python -m sft.prefer RUN"
        )
    if record.rejected == record.output:
        raise InputError(
            f"{where}: 'chosen' and 'rejected' are the same text, which teaches nothing; remove "
            "the record"
        )
