"""The data in numbers, and one example as the model sees it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tiktoken

from sft.data.batches import IGNORE_INDEX
from sft.data.records import KEYS
from sft.data.splits import Split


def overview(splits: dict[str, Split]) -> dict[str, dict[str, int]]:
    """For each split: records, tokens, targets, the longest row, rows cut and dropped, prompts that train has too."""
    train = splits["train"].questions
    numbers: dict[str, dict[str, int]] = {}
    for name, split in splits.items():
        lengths, examples, questions = split.examples.lengths(), split.examples, split.questions
        again = (
            len(train) - len(np.unique(train))
            if name == "train"
            else np.isin(questions, train).sum()
        )
        numbers[name] = {
            "records": len(questions),
            "tokens": int(lengths.sum()),
            "targets": int(examples.targets().sum()),
            "longest": int(lengths.max(initial=0)),
            "cut": examples.cut,
            "dropped": examples.dropped,
            "duplicates": int(again),
        }
    return numbers


def overview_text(numbers: dict[str, dict[str, int]]) -> str:
    """The overview as a table."""
    columns = list(numbers["train"])
    lines = [f"{'data':12}" + "".join(f"{column:>12}" for column in columns)]
    lines += [
        f"{name:12}" + "".join(f"{row[column]:>12,}" for column in columns)
        for name, row in numbers.items()
    ]
    if any(row["cut"] or row["dropped"] for row in numbers.values()):
        lines.append(
            "cut: longer than data.max_length, so the end is missing; dropped: no answer left, so not used"
        )
    if any(row["duplicates"] for row in numbers.values()):
        lines.append("duplicates: prompts that stand in train word for word")
    return "\n".join(lines)


def unused_text(name: Path | str, unused: Mapping[str, int]) -> str | None:
    """Say which keys are not read, and in how many records of that name they are; None if all are read."""
    if not unused:
        return None
    shown = [f"{key[:40]!r} in {count:,}" for key, count in list(unused.items())[:8]]
    more = len(unused) - len(shown)
    rest = f" and {more:,} other keys" if more else ""
    return f"{name}: not read: {', '.join(shown)} of its records{rest}; a record is its {', '.join(KEYS)}"


def example_text(split: Split, tokenizer: tiktoken.Encoding) -> str:
    """The first example, decoded, with the part that is learned between ⟦ and ⟧."""
    batch = split.examples.batch([0])
    text = np.append(batch.input_ids[0].numpy(), batch.labels[0, -1])
    learned = np.append(False, batch.labels[0].numpy() != IGNORE_INDEX)
    first = int(learned.argmax())
    return (
        tokenizer.decode(text[:first].tolist())
        + "⟦"
        + tokenizer.decode(text[first:].tolist())
        + "⟧"
    )
