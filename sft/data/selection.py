"""The choice of training records: those that say something, and a chosen share of them.

`SELECTORS` says by what the share is chosen. To add a way, add it there and to `KeepBy` in the
schema.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from sft.config.schema import DataConfig
from sft.data.records import Record
from sft.data.sources import Indices, Source
from sft.errors import InputError

# Answers that stand for none, in small letters. The Alpaca data has the last two.
NOTHING = ("", "n/a", "<noinput>", "<nooutput>")


def is_empty(record: Record) -> bool:
    """Whether the answer of a record says nothing: blank, `N/A`, `<noinput>` or `<nooutput>`."""
    return record.output.strip().casefold() in NOTHING


def selected(source: Source, rows: Indices, data: DataConfig, notes: list[str]) -> Indices:
    """Return the training rows that are used, in file order.

    Args:
        notes: takes a line on what is left out.
    """
    if data.drop_empty:
        empty = source.measured("empty", _empty)[rows].astype(bool)
        rows = rows[~empty]
        if left_out := int(empty.sum()):
            notes.append(
                f"data.drop_empty: {left_out:,} training records are left out, as their answer is "
                "blank, N/A, <noinput> or <nooutput>"
            )
    if data.keep < 1:
        scores = SELECTORS[data.keep_by](source, rows, data.split_seed)
        count = max(1, round(len(rows) * data.keep))
        notes.append(
            f"data.keep: {count:,} of {len(rows):,} training records, data.keep_by={data.keep_by}"
        )

        # Of equal scores, the first records are kept.
        rows = np.sort(rows[np.argsort(-scores, kind="stable")[:count]])
    return rows


def _empty(records: Iterator[Record]) -> Iterator[int]:
    return (is_empty(record) for record in records)


# Ways to choose: the source, which of its records, and a seed. They return a score for each of
# these records. The highest are kept.
Selector = Callable[[Source, Indices, int], NDArray[np.float64]]


def _longest(source: Source, rows: Indices, seed: int) -> NDArray[np.float64]:
    """Score by the length of the answer, in characters (Zhao et al., 2024, arXiv 2402.04833)."""

    def lengths(records: Iterator[Record]) -> Iterator[int]:
        return (len(record.output) for record in records)

    return source.measured("length", lengths)[rows].astype(np.float64)


def _random(source: Source, rows: Indices, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).random(len(rows))


def _hardest(source: Source, rows: Indices, seed: int) -> NDArray[np.float64]:
    """Score by instruction-following difficulty (Li et al., 2023, arXiv 2308.12032)."""
    if source.difficulties is None:
        raise InputError("data.keep_by: ifd needs a model, as in train.py; choose another way here")
    return source.difficulties[rows]


SELECTORS: dict[str, Selector] = {"longest": _longest, "random": _random, "ifd": _hardest}
