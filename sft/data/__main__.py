"""Look at data before any training: `python -m sft.data --help`."""

from __future__ import annotations

import argparse
import math
import random
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.command import command
from sft.errors import InputError, counted
from sft.launch import composed
from sft.prompts import PROMPTS
from sft.shell import override

if TYPE_CHECKING:
    import tiktoken

    from sft.config.schema import TrainConfig
    from sft.data.doctor import Examination
    from sft.data.records import Record
    from sft.data.sources import Source
    from sft.evaluation.ifd import Difficulty

DESCRIPTION = """\
Look at data before any training: what it holds, how long it is, and what is wrong with it.

  python -m sft.data mine.json
  python -m sft.data train.csv data.test=test.csv --html data.html
  python -m sft.data mine.json --write clean.jsonl --drop duplicates,empty

Settings (data.split=..., data.prompt=...) are those of train.py, so the records and their splits
are the ones it would train on. A setting that only training reads is refused. Nothing is changed:
--write writes another file.
"""

SETTING = re.compile(r"[+~]?[\w.]+=")

NANO = "gpt2-nano"

# The width of the terminal's lines.
WIDTH = 98


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m sft.data",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "words", nargs="+", metavar="FILE", help="files, folders, patterns; and settings key=value"
    )
    made.add_argument(
        "--checkpoint",
        metavar="MODEL",
        help="folder or repository whose tokenizer, context and template count the lengths; "
        "default: that of model=, or else gpt2 if it is cached, or else gpt2-nano",
    )
    made.add_argument(
        "--ifd",
        metavar="MODEL",
        help="measure how much each question helps this model to its answer (slow; cached)",
    )
    made.add_argument(
        "--html", type=Path, metavar="FILE", help="write a page that needs no network"
    )
    made.add_argument("--write", type=Path, metavar="FILE", help="write the records as JSON Lines")
    made.add_argument(
        "--drop",
        default="",
        metavar="CHECKS",
        help="what --write leaves out, separated by commas: the names in the table of checks",
    )
    made.add_argument("--seed", type=int, default=123, help="of the ten at random (%(default)s)")
    return made


def main() -> None:
    """Load, examine, show, write."""
    given = parser().parse_intermixed_args()
    if given.drop and not given.write:
        raise InputError("--drop: nothing is written; add --write FILE")
    config = load_config(given.words, given.checkpoint)

    from sft.atomic import write_json_lines
    from sft.data.doctor import examine
    from sft.data.overview import contents_text, unused_text
    from sft.data.sources import load_source
    from sft.data.splits import part_rows

    source = load_source(config.data)
    read = [file.path.resolve() for file in source.files]
    if given.write and given.write.resolve() in read:
        raise InputError(f"--write: {given.write} is the file to be read; give another")
    records = source.records
    tokenizer, context, template, counted_by = reader(config, given.checkpoint)
    splits = part_rows(source, config.data)
    found = examine(records, splits, template, tokenizer, config.data.max_length or context)

    # Whatever is wrong with --drop is said before the slow part, and before anything is written.
    kept = found.kept([name for name in given.drop.split(",") if name])
    hard = difficulties(source, given.ifd, template) if given.ifd else None
    drawn = random.Random(given.seed).sample(range(len(records)), min(10, len(records)))
    splitting = {name: len(rows) for name, rows in splits.items()}
    unused = unused_text(source.name, source.unused, source.keys)
    recognised = contents_text(source.contents)
    for note in [recognised, *source.notes, *([unused] if unused else [])]:
        print(note)
    print(summary_text(found, source.name, counted_by, splitting, drawn))
    if hard is not None:
        print(difficulty_text(found, hard, given.ifd))
    if given.html:
        from sft.report.data import write_page

        write_page(
            given.html,
            found,
            source.name,
            recognised,
            counted_by,
            splitting,
            drawn,
            difficulty=hard,
            model=given.ifd,
        )
        print(f"\nto look at: {given.html}")
    if given.write:
        write_json_lines(given.write, items_of(records, kept, hard))
        print(f"\n{given.write}: {len(kept):,} of {counted(len(records), 'record')}")


def load_config(words: list[str], checkpoint: str | None = None) -> TrainConfig:
    """Compose the settings as train.py does, with the files as `data.path`.

    Args:
        checkpoint: the option --checkpoint, which chooses the model.

    Raises:
        InputError: a setting is unknown, does not fit, or would not be used.
    """
    from sft.config.loading import from_hydra
    from sft.config.rules import UNREAD_BY_DATA, check_given, given_keys
    from sft.config.schema import TrainConfig

    files = [word for word in words if Path(word).exists() or not SETTING.match(word)]
    overrides = [word for word in words if word not in files]
    if files:
        paths = [override("", str(file)).removeprefix("=") for file in files]
        overrides = ["data=file", f"data.path=[{','.join(paths)}]", *overrides]
    models = [key for key in given_keys(overrides) if key.partition(".")[0] == "model"]
    if checkpoint and models:
        raise InputError(f"{models[0]}: given beside --checkpoint; give one of them")
    config = from_hydra(TrainConfig, composed("train", overrides))
    check_given(config, overrides, also=UNREAD_BY_DATA)
    return config


def reader(config: TrainConfig, checkpoint: str | None) -> tuple[tiktoken.Encoding, int, str, str]:
    """Return the tokenizer, context and template that count the lengths, and their description."""
    from sft.checkpoint.folder import load_pretrained
    from sft.data.prompt import pick_template, template_of

    # gpt2-nano is the default of train.py, so it is not a choice.
    revision = None
    if checkpoint is None and config.model.checkpoint == NANO:
        checkpoint = cached_gpt2() or NANO
    elif checkpoint is None:
        checkpoint = config.model.checkpoint
        revision = config.model.revision
    found = load_pretrained(checkpoint, revision, device="meta")
    own = template_of(found)
    template, _ = pick_template(config.data.prompt, own, found.source)

    names = [name for name, text in PROMPTS.items() if text == template]
    named = f"the template {names[0]}" if names else "its own template"
    context = found.model.config.n_positions
    words = f"in tokens of {found.source}, with {named}, for a context of {context:,} tokens"
    return found.tokenizer, context, template, words


def cached_gpt2() -> str | None:
    """Return the folder of gpt2 in the hub's cache; None if it is not there."""
    from huggingface_hub import try_to_load_from_cache

    from sft.checkpoint.files import WEIGHTS

    found = try_to_load_from_cache("openai-community/gpt2", WEIGHTS)
    return str(Path(found).parent) if isinstance(found, str) else None


def difficulties(source: Source, model: str, template: str) -> Difficulty:
    """Measure the instruction-following difficulty of the records."""
    from sft.checkpoint.folder import load_pretrained
    from sft.evaluation.ifd import difficulty

    if model == "gpt2":
        model = "openai-community/gpt2"
    return difficulty(source, load_pretrained(model, device="meta"), template)


def items_of(
    records: Sequence[Record], kept: Sequence[int], hard: Difficulty | None
) -> list[dict[str, Any]]:
    """Return the kept records as they are written into a file, all in one shape.

    A file of several shapes could not be trained on. Conversations are `messages`, unless some
    records have an input, which only the shape `instruction` keeps apart.
    """
    is_text = not any(record.instruction or record.input or record.before for record in records)
    has_inputs = any(record.input for record in records)
    as_messages = not has_inputs and any(record.before for record in records)

    items: list[dict[str, Any]] = []
    for place in kept:
        record = records[place]
        if is_text:
            item: dict[str, Any] = {"text": record.output}
        elif record.rejected is not None:
            item = _preference_item(record)
        elif as_messages:
            item = {"messages": [turn._asdict() for turn in record.turns]}
        else:
            item = _instruction_item(record)
        if record.category:
            item["category"] = record.category
        if hard is not None:
            ratio = float(hard.ratios[place])
            item["ifd"] = None if math.isnan(ratio) else round(ratio, 6)
        items.append(item)
    return items


def _preference_item(record: Record) -> dict[str, Any]:
    """Return a question with both answers. A conversation becomes lists of messages, as in TRL."""
    if not record.before:
        asked = {"instruction": record.instruction, "input": record.input}
        return asked | {"chosen": record.output, "rejected": record.rejected}
    *asked_turns, chosen = [turn._asdict() for turn in record.turns]
    rejected = chosen | {"content": record.rejected}
    return {"prompt": asked_turns, "chosen": [chosen], "rejected": [rejected]}


def _instruction_item(record: Record) -> dict[str, Any]:
    """Return an instruction, with the turns before it as `system` and `history`."""
    item: dict[str, Any] = {
        "instruction": record.instruction,
        "input": record.input,
        "output": record.output,
    }
    if system := [turn.content for turn in record.before if turn.role == "system"]:
        [item["system"]] = system
    turns = [turn.content for turn in record.before if turn.role != "system"]
    if turns:
        item["history"] = [*zip(turns[::2], turns[1::2], strict=True)]
    return item


# In the terminal


def summary_text(
    found: Examination, name: str, counted_by: str, splits: dict[str, int], drawn: list[int]
) -> str:
    """Return what was found as text."""
    from sft.data.doctor import CHECKS, LEVELS, PERCENTILES, share

    count = len(found.records)
    parts = ", ".join(f"{size:,} {split}" for split, size in splits.items())
    lines = [f"{name}: {counted(count, 'record')} ({parts})", "", f"lengths {counted_by}"]

    columns = [f"{percent}%" if percent < 100 else "longest" for percent in PERCENTILES]
    lines.append(f"{'':10}" + "".join(f"{column:>9}" for column in columns))
    for label, values in found.percentiles().items():
        lines.append(f"{label:10}" + "".join(f"{value:>9,}" for value in values))

    lines += ["", f"{'--drop':12}{'records':>9}{'share':>8}  what is marked"]
    for key, check in CHECKS.items():
        if key in found.skipped:
            lines.append(f"{key:12}{'-':>9}{'-':>8}  not checked: {found.skipped[key]}")
        else:
            size = len(found.marked[key])
            lines.append(f"{key:12}{size:>9,}{share(size, count):>8}  {check.label}")

    if found.shared:
        levels = "".join(f"{f'≥ {level}':>9}" for level in LEVELS)
        lines += ["", f"{'questions in train too':24}{'records':>9}{'exact':>9}{levels}"]
        for split, one in found.shared.items():
            numbers = [one.records, one.exact, *one.similar.values()]
            lines.append(f"{split:24}" + "".join(f"{number:>9,}" for number in numbers))

    letters = sum(number for number, _ in found.scripts.values())
    scripts = [f"{name} {share(number, letters)}" for name, (number, _) in found.scripts.items()]
    lines += ["", f"scripts: {', '.join(scripts[:8]) or 'no letters'}"]

    order = found.by_length().tolist()
    lines += ["", "longest", *(excerpt(found, place) for place in order[:-4:-1])]
    lines += ["", "shortest", *(excerpt(found, place) for place in order[:3])]
    lines += ["", "at random", *(excerpt(found, place) for place in drawn)]
    return "\n".join(lines)


def difficulty_text(found: Examination, hard: Difficulty, model: str) -> str:
    """Return the hardest and the easiest records, by their ratio of losses."""
    order = hard.order().tolist()
    above = int((hard.ratios >= 1).sum())
    lines = [
        "",
        f"IFD by {model}: loss of the answer after its question, over its loss alone; "
        f"{counted(above, 'record')} at 1 or more, where the question does not help",
    ]
    for title, places in (("hardest", order[:3]), ("easiest", order[:-4:-1])):
        lines += ["", title]
        lines += [f"  {hard.ratios[place]:.3f}  {excerpt(found, place)}" for place in places]
    return "\n".join(lines)


def excerpt(found: Examination, place: int) -> str:
    """Return a record on one line, by its number from 1."""
    record = found.records[place]
    asked = f"{record.instruction} {record.input}"
    text = f"{textwrap.shorten(asked, 60, placeholder='…')} → {record.output}"
    head = f"{place + 1:>7}  {found.lengths[place]:>6,} tokens  "
    return head + textwrap.shorten(text, WIDTH - len(head), placeholder=" …")


if __name__ == "__main__":
    command(main)
