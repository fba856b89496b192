"""The report of an evaluation. If a run made the model, the report shows the run too."""

from pathlib import Path

from sft.atomic import read_numbers
from sft.report.report import write_report
from sft.scoring.results import EvaluationSummary, RecordResult
from sft.summaries import read_run_summary


def write_pages(
    folder: Path, run: Path | None, rows: list[RecordResult], summary: EvaluationSummary
) -> None:
    """Write `report.html` and `report.md`.

    Args:
        run: the folder of the run that made the model; None for a checkpoint.

    Raises:
        InputError: a file cannot be written.
    """
    past = None
    metrics = None
    if run is not None:
        past = read_run_summary(run)
        if (run / "metrics.csv").exists():
            metrics = read_numbers(run / "metrics.csv")
    write_report(folder, summary, rows, past, metrics)
