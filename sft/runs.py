"""A finished run of train.py, read for a notebook."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from sft.atomic import read_json, read_json_lines, read_numbers
from sft.checkpoint.folder import Pretrained, load_pretrained
from sft.errors import InputError
from sft.latest import LATEST, followed
from sft.summaries import RUN_SUMMARY, RunSummary, read_run_summary
from sft.training.summary import loss_figure


class Run:
    """The folder of a run: its summary, its losses, its answers, its model.

    Args:
        folder: of the run; the newest one, if it is left out.

    Attributes:
        summary: losses before and after, tokens, seconds, versions, config.
        losses: the rows of metrics.csv; `pandas.DataFrame(run.losses)` is a table of them.

    Raises:
        InputError: the folder holds no finished run.
    """

    def __init__(self, folder: str | Path = LATEST) -> None:
        self.folder = followed(folder)
        if not (self.folder / RUN_SUMMARY).exists():
            raise InputError(f"{folder}: holds no finished run; train first (python train.py)")
        self.summary: RunSummary = read_run_summary(self.folder)
        self.losses: list[dict[str, float]] = read_numbers(self.folder / "metrics.csv")

    @property
    def answers(self) -> list[dict[str, Any]]:
        """The records of the last evaluation, with the answers; empty before `evaluate.py`."""
        path = self.folder / "evaluation" / "records.jsonl"
        return read_json_lines(path) if path.exists() else []

    @property
    def scores(self) -> dict[str, Any]:
        """The summary of the last evaluation; empty before `evaluate.py`."""
        path = self.folder / "evaluation" / "summary.json"
        return read_json(path) if path.exists() else {}

    def model(self) -> Pretrained:
        """Load the run's model."""
        return load_pretrained(self.folder)

    def plot(self) -> Figure:
        """Draw the loss curves."""
        return loss_figure(self.losses)

    def __repr__(self) -> str:
        summary = self.summary
        best = summary.best_validation_loss
        loss = "" if best is None else f", validation loss {best:.3f}"
        return f"Run({str(self.folder)!r}): {summary.steps} steps{loss}"
