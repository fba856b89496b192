"""Two evaluations of the same records, side by side: which model is better, and can one be sure?"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.atomic import read_json
from sft.errors import InputError
from sft.scoring.aggregate import COMPARED, Row, differences, not_asked, not_asked_text
from sft.scoring.statistics import TOO_FEW
from sft.shell import setting


@dataclass(frozen=True)
class Evaluation:
    """What evaluate.py has left of a run."""

    name: str
    summary: dict[str, Any]
    rows: list[Row]

    def tuned(self) -> list[Row]:
        return [row["tuned"] for row in self.rows]


def read_evaluation(run: str) -> Evaluation:
    """The evaluation in a run's folder, or in the `out` folder of a checkpoint's.

    Raises:
        InputError: there is none, or its files cannot be read.
    """
    path = Path(run).expanduser()
    folder = path / "evaluation" if (path / "evaluation").is_dir() else path
    if not (folder / "records.jsonl").is_file():
        raise InputError(
            f"compare: {run} has not been evaluated; first: python evaluate.py {setting('run', run)}"
        )
    try:
        summary = read_json(folder / "summary.json")
        lines = (folder / "records.jsonl").read_text(encoding="utf-8").split("\n")
        rows = [json.loads(line) for line in lines if line]
        for row in rows:
            (
                _question(row),
                [row["tuned"][key] for key in (*COMPARED, "loss_tokens", "text", "status")],
            )
        return Evaluation(
            run, {key: summary[key] for key in ("split", "judge", "decoding", "template")}, rows
        )
    except (InputError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder}: not an evaluation as evaluate.py writes it ({error!r}); do it again"
        ) from error


def _question(row: Row) -> list[str]:
    return [row[key] for key in ("instruction", "input", "output")]


def compare(first: Evaluation, second: Evaluation) -> dict[str, Any]:
    """The differences between the two tuned models, first minus second.

    Raises:
        InputError: the records are not the same.
    """
    _check_same_records(first, second)
    judges = [evaluation.summary["judge"] for evaluation in (first, second)]
    parts = [first.tuned(), second.tuned()]
    if _identity(judges[0]) != _identity(judges[1]):
        parts = [[part | {"score": None} for part in model] for model in parts]
    return {
        "first": first.name,
        "second": second.name,
        "records": len(first.rows),
        "split": first.summary["split"],
        "settings_apart": [
            key for key in ("decoding", "template") if first.summary[key] != second.summary[key]
        ],
        "judges_apart": _identity(judges[0]) != _identity(judges[1]),
        "not_asked": {"first": not_asked(first.tuned()), "second": not_asked(second.tuned())},
        "differences": differences(parts[0], parts[1], ("the first", "the second")),
    }


def _identity(judge: dict[str, Any] | None) -> dict[str, Any] | None:
    """What makes a judge the same judge."""
    if judge is None:
        return None
    told = ("kind", "model", "digest", "prompt", "options", "mode")
    where = (
        {} if judge.get("digest") else {"url": judge.get("url")}
    )  # elsewhere, the same name may be another model's
    return {key: judge.get(key) for key in told} | where


def _check_same_records(first: Evaluation, second: Evaluation) -> None:
    asked = [list(map(_question, one.rows)) for one in (first, second)]
    if asked[0] != asked[1]:
        pairs = enumerate(zip(*asked, strict=False), 1)
        apart = next(
            (number for number, (one, other) in pairs if one != other), min(map(len, asked)) + 1
        )
        raise InputError(
            f"compare: {first.name} and {second.name} were not asked the same records (from record {apart} on; "
            f"{len(asked[0])} and {len(asked[1])} in all); evaluate both with the same data, split= and limit="
        )


def comparison_text(found: dict[str, Any]) -> str:
    """The comparison as a table, and what it means in sentences."""
    lines = [f"first:  {found['first']}", f"second: {found['second']}", ""]
    lines.append(
        f"{found['records']:>5} records   {'difference':>11}{'95% interval':>20}{'p':>8}{'win/tie/loss':>16}"
    )
    for metric in COMPARED:
        if (one := found["differences"].get(metric)) is not None:
            counts = f"{one['wins']}/{one['ties']}/{one['losses']}"
            span = " to ".join(f"{end:+.3f}" for end in one["interval"] or ())
            name = metric.replace("_", " ")
            lines.append(
                f"{name:16}{one['difference']:>+11.3f}{span:>20}{one['p_value']:>8.2g}{counts:>16}"
            )
    said = [
        f"{metric.replace('_', ' ')}: {one['verdict']}"
        for metric, one in found["differences"].items()
    ]
    lines += ["", *said, *_remarks(found)]
    return "\n".join(lines)


def _remarks(found: dict[str, Any]) -> Sequence[str]:
    remarks = (
        [f"note: the two differ in {' and '.join(found['settings_apart'])}"]
        if found["settings_apart"]
        else []
    )
    for name, counts in found["not_asked"].items():
        if counts:
            remarks.append(
                f"note: not asked of the {name}: {not_asked_text(counts)}; the others are compared"
            )
    if any(one["interval"] is None for one in found["differences"].values()):
        remarks.append(f"note: {TOO_FEW}")
    return remarks + (
        ["note: not the same judge, so scores are not compared"] if found["judges_apart"] else []
    )
