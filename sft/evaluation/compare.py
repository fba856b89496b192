"""Two evaluations of the same records, compared: which model is better, and is that certain?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from glob import glob, has_magic
from itertools import zip_longest
from pathlib import Path
from typing import Any

from sft.config.loading import flat
from sft.errors import InputError, counted
from sft.latest import followed
from sft.metrics import BY_NAME
from sft.scoring.aggregate import differences, not_asked, not_asked_text, visible_remark
from sft.scoring.results import (
    RECORDS,
    AnswerResult,
    EvaluationSummary,
    JudgeSummary,
    MetricDifference,
    RecordResult,
    read_records,
    read_summary,
)
from sft.scoring.statistics import TOO_FEW
from sft.shell import setting


@dataclass(frozen=True)
class Evaluation:
    """An evaluation, read from its files.

    Attributes:
        name: the folder, as it was given.
        folder: the folder of its files.
    """

    name: str
    folder: Path
    summary: EvaluationSummary
    rows: list[RecordResult]

    def tuned(self) -> list[AnswerResult]:
        return [row.tuned for row in self.rows]


@dataclass(frozen=True)
class RunComparison:
    """The differences between two tuned models, first minus second.

    Attributes:
        differing_settings: which of the settings that make an answer differ.
        judges_differ: whether the judges differ, so that scores are not compared.
        not_asked: how many records the `first` and the `second` were not asked, by reason.
    """

    first: str
    second: str
    records: int
    split: str
    differing_settings: list[str]
    judges_differ: bool
    not_asked: dict[str, dict[str, int]]
    differences: dict[str, MetricDifference]


def read_evaluation(run: str, key: str = "compare") -> Evaluation:
    """Read the evaluation in a run's folder, or in the `out` folder of a checkpoint's.

    Args:
        key: the setting that named the run, for messages.

    Raises:
        InputError: there is no evaluation, or its files cannot be read.
    """
    path = followed(run)
    folder = path / "evaluation" if (path / "evaluation").is_dir() else path
    if not (folder / RECORDS).is_file():
        raise _not_evaluated(run, key)
    return Evaluation(run, folder, read_summary(folder), read_records(folder))


def evaluated_runs(names: Sequence[str]) -> list[str]:
    """Return the runs that the names stand for: runs, sweeps, or patterns of either.

    A folder without an evaluation of its own is a sweep, and stands for the evaluated runs in it.

    Raises:
        InputError: a name stands for no evaluated run, or all of them for fewer than two.
    """
    found: list[str] = []
    for name in names:
        path = str(Path(name).expanduser())
        runs: list[str] = []
        for folder in sorted(glob(path), key=_by_number) if has_magic(path) else [path]:
            if _is_evaluated(Path(folder)):
                runs.append(folder)
            else:
                jobs = [str(job) for job in Path(folder).glob("*") if _is_evaluated(job)]
                runs += sorted(jobs, key=_by_number)
        if not runs:
            raise _not_evaluated(name, "compare")
        found += runs
    found = list(dict.fromkeys(found))
    if len(found) == 1:
        raise InputError(f"compare: {found[0]} is one run; expected at least two")
    return found


def _is_evaluated(folder: Path) -> bool:
    return any((place / RECORDS).is_file() for place in (folder / "evaluation", folder))


def _not_evaluated(run: str, key: str) -> InputError:
    return InputError(
        f"{key}: {run} has not been evaluated; first: python evaluate.py {setting('run', run)}"
    )


def _by_number(name: str) -> tuple[int, str]:
    """Order jobs by their numbers: 2 before 10."""
    last = Path(name).name
    return int(last) if last.isdecimal() else 0, name


def compare(first: Evaluation, second: Evaluation) -> RunComparison:
    """Return the differences between the two tuned models, first minus second.

    Raises:
        InputError: the records are not the same.
    """
    check_same_records(first, second)
    judges_differ = identity(first.summary.judge) != identity(second.summary.judge)
    differing = []
    if first.summary.decoding != second.summary.decoding:
        differing.append("decoding")
    if first.summary.template != second.summary.template:
        differing.append("template")

    # Scores of different judges are not compared.
    answers = [first.tuned(), second.tuned()]
    if judges_differ:
        answers = [[replace(answer, score=None) for answer in model] for model in answers]
    return RunComparison(
        first=first.name,
        second=second.name,
        records=len(first.rows),
        split=first.summary.split,
        differing_settings=differing,
        judges_differ=judges_differ,
        not_asked={"first": not_asked(first.tuned()), "second": not_asked(second.tuned())},
        differences=differences(answers[0], answers[1], ("the first", "the second")),
    )


def identity(judge: JudgeSummary | None) -> dict[str, Any] | None:
    """Return what makes two judges the same judge.

    Without a digest of the model, the address counts too: on another server, the same name may be
    another model's.
    """
    if judge is None:
        return None
    keys = ["kind", "model", "digest", "prompt", "options", "mode"]
    if not judge.identity.get("digest"):
        keys.append("url")
    return {key: judge.identity.get(key) for key in keys}


def check_same_records(first: Evaluation, second: Evaluation, key: str = "compare") -> None:
    """Raise InputError, with the setting at fault, if two evaluations have different records.

    Args:
        key: the setting that named the two.
    """
    split = first.summary.split
    if second.summary.split != split:
        raise InputError(
            f"{key}: {first.name} was last evaluated on its {split} split and {second.name} on "
            f"its {second.summary.split} split; evaluate one of them again: python evaluate.py "
            f"{setting('run', second.name)} split={split}"
        )
    pairs = zip_longest(map(_texts, first.rows), map(_texts, second.rows))
    for number, (one, other) in enumerate(pairs, 1):
        if one != other:
            raise InputError(
                f"{key}: {first.name} and {second.name} were not asked the same records"
                f"{_key_that_differs(first.summary, second.summary)} (from record {number} on; "
                f"{len(first.rows)} and {len(second.rows)} in all); evaluate both with the same "
                "data, split= and limit="
            )


def _key_that_differs(first: EvaluationSummary, second: EvaluationSummary) -> str:
    """Return the first setting of the records that differs, with both values; or nothing."""
    keys = ("limit", "data.split", "data.sample", "data.sample_seed", "data.path")
    settings = [flat(summary.config) for summary in (first, second)]
    for key in keys:
        one, other = (values.get(key) for values in settings)
        if one != other:
            return f": {key} is {one} and {other}"
    if first.data.sha256 != second.data.sha256:
        return f": the file {first.data.path} has changed in between"
    return ""


def _texts(row: RecordResult) -> tuple[Any, ...]:
    return row.turns_before, row.instruction, row.input, row.output


def comparison_text(found: RunComparison) -> str:
    """Return the comparison as a table, and its meaning in sentences."""
    records = counted(found.records, "record")
    header = f"{records:>13}   {'difference':>11}{'95% interval':>20}{'p':>8}"
    lines = [
        f"first:  {found.first}",
        f"second: {found.second}",
        "",
        f"{header}{'win/tie/loss':>16}",
    ]
    verdicts = []
    for metric, one in found.differences.items():
        label = BY_NAME[metric].label
        interval = " to ".join(f"{end:+.3f}" for end in one.interval or ())
        counts = f"{one.wins}/{one.ties}/{one.losses}"
        difference = f"{label:16}{one.difference:>+11.3f}{interval:>20}"
        lines.append(f"{difference}{one.p_value:>8.2g}{counts:>16}")
        verdicts.append(f"{label}: {one.verdict}")
    return "\n".join([*lines, "", *verdicts, "", *_remarks(found)])


def _remarks(found: RunComparison) -> Sequence[str]:
    remarks = []
    if visible := visible_remark(found.differences, found.records):
        remarks.append(visible)
    if found.differing_settings:
        remarks.append(f"note: the two differ in {' and '.join(found.differing_settings)}")
    for name, counts in found.not_asked.items():
        if counts:
            remarks.append(
                f"note: not asked of the {name}: {not_asked_text(counts)}; the others are compared"
            )
    if any(one.interval is None for one in found.differences.values()):
        remarks.append(f"note: {TOO_FEW}")
    if found.judges_differ:
        remarks.append("note: not the same judge, so scores are not compared")
    return remarks
