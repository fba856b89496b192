"""The data in numbers, and one example as the model sees it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tiktoken

from sft.data.batches import IGNORE_INDEX
from sft.data.plan import Plan
from sft.data.records import KEYS, resembled
from sft.data.splits import Split


def overview(splits: dict[str, Split]) -> dict[str, dict[str, int]]:
    """Count each split's records, tokens, targets, rows cut and dropped, duplicates, empty answers.

    In train, a duplicate is a question that came before; in the other splits, one of train's.
    """
    train = splits["train"].questions
    numbers: dict[str, dict[str, int]] = {}
    for name, split in splits.items():
        examples = split.examples
        lengths = examples.lengths()
        questions = split.questions
        duplicates = len(train) - len(np.unique(train))
        if name != "train":
            duplicates = int(np.isin(questions, train).sum())
        numbers[name] = {
            "records": len(questions),
            "tokens": int(lengths.sum()),
            "targets": int(examples.labels_of_rows().sum()),
            "longest": int(lengths.max(initial=0)),
            "cut": examples.cut,
            "dropped": examples.dropped,
            "duplicates": duplicates,
            "empty": split.empty,
        }
    return numbers


def overview_text(numbers: dict[str, dict[str, int]]) -> str:
    """Return the overview as a table, with notes on what needs explaining."""
    columns = list(numbers["train"])
    has_empty = any(row["empty"] for row in numbers.values())
    if not has_empty:
        columns.remove("empty")
    lines = [f"{'data':12}" + "".join(f"{column:>12}" for column in columns)]
    for name, row in numbers.items():
        lines.append(f"{name:12}" + "".join(f"{row[column]:>12,}" for column in columns))

    if any(row["cut"] or row["dropped"] for row in numbers.values()):
        lines.append(
            "cut: longer than data.max_length, so the end is missing; "
            "dropped: no answer left, so not used"
        )
    if any(row["duplicates"] for row in numbers.values()):
        lines.append("duplicates: prompts that are also in train, word for word")
    if has_empty:
        lines.append(
            "empty: answers that are blank, N/A, <noinput> or <nooutput>; data.drop_empty=true "
            "leaves out those of train"
        )
    return "\n".join(lines)


def unused_text(name: Path | str, unused: Mapping[str, int]) -> str | None:
    """Say which keys are not read, and in how many records each is; None if all are read.

    Args:
        name: the records, in the message.
    """
    if not unused:
        return None
    # A key like one that is read may be a slip, so these come first.
    ordered = sorted(unused.items(), key=lambda item: resembled(item[0], KEYS) is None)
    shown = []
    for key, count in ordered[:8]:
        meant = resembled(key, KEYS)
        like = f" (like {meant!r})" if meant else ""
        shown.append(f"{key[:40]!r}{like} in {count:,}")
    more = len(unused) - len(shown)
    rest = f" and {more:,} other keys" if more else ""
    return (
        f"{name}: not read: {', '.join(shown)} of its records{rest}; "
        f"the keys read are {', '.join(KEYS)}"
    )


def weights_text(paths: Sequence[str], plan: Plan) -> str:
    """Say how many records of each path an epoch takes."""
    assert plan.sources is not None
    counts = np.bincount(plan.sources, minlength=len(paths)).tolist()
    rows = zip(paths, counts, plan.weights, plan.taken, strict=True)
    lines = [
        f"{Path(path).name}: {count:,} records × {weight:g} = {taken:,}"
        for path, count, weight, taken in rows
    ]
    return f"each epoch trains on {', '.join(lines)}"


def example_text(split: Split, tokenizer: tiktoken.Encoding) -> str:
    """Return the first example, decoded, with the part that is learned between ⟦ and ⟧."""
    batch = split.examples.batch([0])
    end = int(batch.lengths[0])
    text = np.append(batch.input_ids[0, :end].numpy(), batch.labels[0, end - 1])

    # Labels are shifted by one: the label of position j is token j + 1.
    first = int((batch.labels[0].numpy() != IGNORE_INDEX).argmax()) + 1
    prompt = tokenizer.decode(text[:first].tolist())
    learned = tokenizer.decode(text[first:].tolist())
    return f"{prompt}⟦{learned}⟧"
