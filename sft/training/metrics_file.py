"""`metrics.csv`: a row for each optimizer step, and row 0 for what is measured before the first."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft.atomic import read_numbers, write_text, writing
from sft.metrics import TEXT_METRICS

# The means of the answers to validation records, by the metric.
ANSWERED = {f"val/{name}": name for name in TEXT_METRICS}

COLUMNS = (
    "step",
    "epoch",
    "tokens_seen",
    "train/loss",
    "lr",
    "tokens_per_sec",
    "grad_norm",
    "mfu",
    "train/eval_loss",
    "val/loss",
    "val/full_loss",
    "val/ema_loss",
    *ANSWERED,
)
# The columns of a number that an objective measures besides its loss begin with these.
PREFIXES = ("train/", "val/", "val/full_")
Row = dict[str, float]


@dataclass
class MetricsFile:
    """The file, and its rows in memory.

    Args:
        extra: names of the numbers that the objective measures besides its loss.
    """

    path: Path
    rows: list[Row] = field(default_factory=list)
    extra: Sequence[str] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        more = [prefix + name for name in self.extra for prefix in PREFIXES]
        return (*COLUMNS, *more)

    def resume(self, step: int) -> None:
        """Begin the file, or keep its rows up to `step`; later steps are about to be repeated."""
        before = read_numbers(self.path) if step and self.path.exists() else []
        self.rows = [row for row in before if row["step"] <= step]
        header = {name: name for name in self.columns}
        write_text(self.path, _csv(self.columns, [header, *self.rows]))

    def has(self, step: float) -> bool:
        """Return whether the last row is for `step`."""
        return bool(self.rows) and self.rows[-1]["step"] == step

    def append(self, row: Row) -> None:
        """Write a row, and remember it.

        Raises:
            InputError: the file cannot be written, as on a full disk.
        """
        with writing(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
            file.write(_csv(self.columns, [row]))
        self.rows.append(row)


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, float | str]]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns, lineterminator="\n").writerows(rows)
    return text.getvalue()


def prefixed(prefix: str, values: Mapping[str, float]) -> Row:
    """Return the values under their columns' names."""
    return {prefix + name: value for name, value in values.items()}


def scalars(row: Row) -> dict[str, Any]:
    """Return what a tracker is given of a row: everything but its step."""
    return {key: value for key, value in row.items() if key != "step"}
