"""The data in numbers, and one example as the model sees it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tiktoken

from sft.data.batches import IGNORE_INDEX
from sft.data.plan import Plan
from sft.data.records import Contents, resembled
from sft.data.splits import Split
from sft.errors import counted


def overview(splits: dict[str, Split]) -> dict[str, dict[str, int]]:
    """Count each split's records, tokens, targets, rows cut and dropped, duplicates, empty answers.

    In the training split, a duplicate is a question that came before. In the other splits, it is a
    question of the training split.
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
            "split": len(examples) - len(np.unique(examples.records[: len(examples)])),
        }
    return numbers


def overview_text(numbers: dict[str, dict[str, int]]) -> str:
    """Return the overview as a table, with notes on what needs explaining."""
    columns = list(numbers["train"])
    has_empty = any(row["empty"] for row in numbers.values())
    if not has_empty:
        columns.remove("empty")
    has_split = any(row["split"] for row in numbers.values())
    if not has_split:
        columns.remove("split")
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
    if has_split:
        lines.append("split: more examples, made of conversations longer than data.max_length")
    if has_empty:
        lines.append(
            "empty: answers that are blank, N/A, <noinput> or <nooutput>; data.drop_empty=true "
            "leaves out those of train"
        )
    return "\n".join(lines)


def contents_text(contents: Iterable[Contents]) -> str:
    """Say what was recognised in the files: how many records of which shape, and their turns."""
    shapes: dict[str, list[Contents]] = {}
    for found in contents:
        shapes.setdefault(found.shape, []).append(found)

    parts = []
    for shape, files in shapes.items():
        records = sum(found.records for found in files)
        answers = sum(found.answers for found in files)
        if any(found.conversations for found in files):
            kind = counted(records, "conversation")
            parts.append(f"{kind}, {shape} format, {answers / records:.1f} turns each")
        else:
            parts.append(f"{counted(records, 'record')}, {shape} format")
    return "; ".join(parts)


def unused_text(name: Path | str, unused: Mapping[str, int], keys: Sequence[str]) -> str | None:
    """Say which keys are not read, and in how many records each is; None if all are read.

    Args:
        name: the records, in the message.
        keys: the keys that are read.
    """
    if not unused:
        return None

    # A key like one that is read, or like an input, may be a slip, so these come first.
    read = tuple(keys)
    ordered = sorted(unused.items(), key=lambda item: not _hint(item[0], read))
    shown = [f"{key[:40]!r}{_hint(key, read)} in {count:,}" for key, count in ordered[:8]]
    more = len(unused) - len(shown)
    rest = f" and {more:,} other keys" if more else ""
    return (
        f"{name}: not read: {', '.join(shown)} of its records{rest}; "
        f"the keys read are {', '.join(read)}"
    )


def _hint(key: str, read: tuple[str, ...]) -> str:
    """Say what an unused key may be meant as; "" if that cannot be seen."""
    if meant := resembled(key, read):
        return f" (like {meant!r})"
    if key == "context" and "input" in read:
        return ' (to read it: "data.fields={input: context}")'
    return ""


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
    """Return the first example, decoded, with each part that is learned between ⟦ and ⟧.

    If a learned part begins the text, its first token is shown as learned, though nothing predicts
    it.
    """
    batch = split.examples.batch([0])
    end = int(batch.lengths[0])
    text = np.append(batch.input_ids[0, :end].numpy(), batch.labels[0, end - 1])

    # Labels are shifted by one: the label of position j is token j + 1.
    begins = not split.examples.mask_prompt or split.examples.is_answer(0)[0]
    learned = np.append([begins], batch.labels[0, :end].numpy() != IGNORE_INDEX)
    borders = np.flatnonzero(np.diff(learned)) + 1

    shown = ""
    for part in np.split(np.arange(len(text)), borders):
        decoded = tokenizer.decode(text[part].tolist())
        shown += f"⟦{decoded}⟧" if learned[part[0]] else decoded
    return shown
