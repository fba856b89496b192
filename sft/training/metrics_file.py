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
    "train/eval_loss",
    "val/loss",
    "val/full_loss",
    "val/ema_loss",
    *ANSWERED,
)
Row = dict[str, float]


@dataclass
class MetricsFile:
    """The file, and its rows in memory."""

    path: Path
    rows: list[Row] = field(default_factory=list)

    def resume(self, step: int) -> None:
        """Begin the file, or keep its rows up to `step`; later steps are about to be repeated."""
        before = read_numbers(self.path) if step and self.path.exists() else []
        self.rows = [row for row in before if row["step"] <= step]
        header = dict(zip(COLUMNS, COLUMNS, strict=True))
        write_text(self.path, _csv([header, *self.rows]))

    def has(self, step: float) -> bool:
        """Whether the last row is for `step`."""
        return bool(self.rows) and self.rows[-1]["step"] == step

    def append(self, row: Row) -> None:
        """Write a row, and remember it.

        Raises:
            InputError: the file cannot be written, as on a full disk.
        """
        with writing(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
            file.write(_csv([row]))
        self.rows.append(row)


def _csv(rows: Sequence[Mapping[str, float | str]]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, COLUMNS, lineterminator="\n").writerows(rows)
    return text.getvalue()


def scalars(row: Row) -> dict[str, Any]:
    """Return what a tracker is given of a row: everything but its step."""
    return {key: value for key, value in row.items() if key != "step"}
