"""Two evaluations of the same records, compared: which model is better, and is that certain?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from sft.errors import InputError, counted
from sft.metrics import BY_NAME
from sft.scoring.aggregate import differences, not_asked, not_asked_text, visible_remark
from sft.scoring.results import (
    RECORDS,
    AnswerResult,
    EvaluationSummary,
    RecordResult,
    read_records,
    read_summary,
)
from sft.scoring.statistics import TOO_FEW
from sft.shell import setting


@dataclass(frozen=True)
class Evaluation:
    """The files of an evaluation, read.

    Attributes:
        name: the folder, as it was given.
    """

    name: str
    summary: EvaluationSummary
    rows: list[RecordResult]

    def tuned(self) -> list[AnswerResult]:
        return [row.tuned for row in self.rows]


def read_evaluation(run: str) -> Evaluation:
    """Read the evaluation in a run's folder, or in the `out` folder of a checkpoint's.

    Raises:
        InputError: there is none, or its files cannot be read.
    """
    path = Path(run).expanduser()
    folder = path / "evaluation" if (path / "evaluation").is_dir() else path
    if not (folder / RECORDS).is_file():
        raise InputError(
            f"compare: {run} has not been evaluated; first: "
            f"python evaluate.py {setting('run', run)}"
        )
    return Evaluation(run, read_summary(folder), read_records(folder))


def compare(first: Evaluation, second: Evaluation) -> dict[str, Any]:
    """Return the differences between the two tuned models, first minus second.

    Raises:
        InputError: the records are not the same.
    """
    _check_same_records(first, second)
    judges_differ = _identity(first.summary.judge) != _identity(second.summary.judge)
    settings_differ = []
    if first.summary.decoding != second.summary.decoding:
        settings_differ.append("decoding")
    if first.summary.template != second.summary.template:
        settings_differ.append("template")

    # Scores of different judges are not compared.
    answers = [first.tuned(), second.tuned()]
    if judges_differ:
        answers = [[replace(answer, score=None) for answer in model] for model in answers]
    return {
        "first": first.name,
        "second": second.name,
        "records": len(first.rows),
        "split": first.summary.split,
        "settings_apart": settings_differ,
        "judges_apart": judges_differ,
        "not_asked": {"first": not_asked(first.tuned()), "second": not_asked(second.tuned())},
        "differences": differences(answers[0], answers[1], ("the first", "the second")),
    }


def _identity(judge: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what makes two judges the same judge.

    Without a digest of the model, the address counts too: on another server, the same name may be
    another model's.
    """
    if judge is None:
        return None
    keys = ["kind", "model", "digest", "prompt", "options", "mode"]
    if not judge.get("digest"):
        keys.append("url")
    return {key: judge.get(key) for key in keys}


def _check_same_records(first: Evaluation, second: Evaluation) -> None:
    one, other = first.summary.split, second.summary.split
    if one != other:
        raise InputError(
            f"compare: {first.name} was last evaluated on its {one} split and {second.name} on its "
            f"{other} split; evaluate one of them again: python evaluate.py "
            f"{setting('run', second.name)} split={one}"
        )
    pairs = zip_longest(map(_texts, first.rows), map(_texts, second.rows))
    for number, (one, other) in enumerate(pairs, 1):
        if one != other:
            raise InputError(
                f"compare: {first.name} and {second.name} were not asked the same records (from "
                f"record {number} on; {len(first.rows)} and {len(second.rows)} in all); evaluate "
                "both with the same data, split= and limit="
            )


def _texts(row: RecordResult) -> tuple[str, str, str]:
    return row.instruction, row.input, row.output


def comparison_text(found: dict[str, Any]) -> str:
    """Return the comparison as a table, and its meaning in sentences."""
    records = counted(found["records"], "record")
    header = f"{records:>13}   {'difference':>11}{'95% interval':>20}{'p':>8}"
    lines = [
        f"first:  {found['first']}",
        f"second: {found['second']}",
        "",
        f"{header}{'win/tie/loss':>16}",
    ]
    verdicts = []
    for metric, one in found["differences"].items():
        label = BY_NAME[metric].label
        interval = " to ".join(f"{end:+.3f}" for end in one["interval"] or ())
        counts = f"{one['wins']}/{one['ties']}/{one['losses']}"
        difference = f"{label:16}{one['difference']:>+11.3f}{interval:>20}"
        lines.append(f"{difference}{one['p_value']:>8.2g}{counts:>16}")
        verdicts.append(f"{label}: {one['verdict']}")
    return "\n".join([*lines, "", *verdicts, "", *_remarks(found)])


def _remarks(found: dict[str, Any]) -> Sequence[str]:
    remarks = []
    if visible := visible_remark(found["differences"], found["records"]):
        remarks.append(visible)
    if found["settings_apart"]:
        remarks.append(f"note: the two differ in {' and '.join(found['settings_apart'])}")
    for name, counts in found["not_asked"].items():
        if counts:
            remarks.append(
                f"note: not asked of the {name}: {not_asked_text(counts)}; the others are compared"
            )
    if any(one["interval"] is None for one in found["differences"].values()):
        remarks.append(f"note: {TOO_FEW}")
    if found["judges_apart"]:
        remarks.append("note: not the same judge, so scores are not compared")
    return remarks
