"""The end of a run: loss curves, `summary.json`, the model's card, a table."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from sft.atomic import writing
from sft.errors import counted
from sft.metrics import BY_NAME
from sft.report.card import write_card
from sft.shell import setting, shown
from sft.summaries import LossChange, RunSummary, write_run_summary
from sft.training.metrics_file import ANSWERED, Row

log = logging.getLogger("sft")

LOSSES = ("train/loss", "train/eval_loss", "val/loss", "val/full_loss")
# The losses of the table, with the names that it gives them.
IN_TABLE = {"train/eval_loss": "train loss", "val/loss": "validation loss"}
# The curves of the plot: column, label, style.
EACH_STEP = {"color": "tab:blue", "alpha": 0.25, "linewidth": 1}
TRAIN = {"color": "tab:blue"}
VALIDATION = {"color": "tab:orange", "linestyle": "--"}
WHOLE = {"color": "tab:red", "marker": "o", "linestyle": ":"}
CURVES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("train/loss", "each step", EACH_STEP),
    ("train/eval_loss", "train", TRAIN),
    ("val/loss", "validation", VALIDATION),
    ("val/full_loss", "validation, all of it", WHOLE),
)


def report_run(folder: Path, summary: RunSummary, rows: list[Row]) -> None:
    """Write the curves, `summary.json` and the card, and show the table.

    Raises:
        InputError: a file cannot be written, as on a full disk.
    """
    plot_losses(rows, folder)
    write_run_summary(folder, summary)
    write_card(folder)

    where = shown(folder)
    # evaluate.py reads the test split unless told otherwise, and here it may be empty.
    split = "" if summary.data.splits["test"]["records"] else " split=train"
    log.info(
        f"\n{table(summary)}\n\nAll of it is in {where}. "
        f"Next: python evaluate.py {setting('run', where)}{split}"
    )


def loss_changes(rows: list[Row]) -> dict[str, LossChange]:
    """Return the first and last value of each loss that was taken."""
    changes = {}
    for key in LOSSES:
        values = [row[key] for row in rows if key in row]
        if values:
            changes[key] = LossChange(values[0], values[-1])
    return changes


def peak_memory_bytes(device: str) -> int:
    """Return the most memory in use so far.

    That is the GPU's memory for CUDA, else the resident set of this process (getrusage(2)); 0 where
    the system does not count it.
    """
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())

    # Windows has no getrusage.
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def plot_losses(rows: list[Row], folder: Path) -> None:
    """Write `loss.png` and `loss.pdf`."""
    figure = loss_figure(rows)
    for name in ("loss.png", "loss.pdf"):
        with writing(folder / name):
            figure.savefig(folder / name, dpi=150)


def loss_figure(rows: Sequence[Row]) -> Figure:
    """Draw the losses against epochs, with tokens seen on a second axis.

    Below them are the means of the answers that were given while the model trained, if there are
    any.
    """
    answered = [key for key in ANSWERED if any(key in row for row in rows)]
    figure = Figure(figsize=(7, 7 if answered else 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(2 if answered else 1, 1, 1)
    for key, label, style in CURVES:
        points = [(row["epoch"], row[key]) for row in rows if key in row]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, **style)

    axes.set(xlabel="epochs", ylabel="loss (nats per token)", yscale="log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.legend(frameon=False)

    # Tokens grow with epochs at a constant rate, but for rounding.
    last = max(rows, key=lambda row: row["step"])
    tokens_per_epoch = last["tokens_seen"] / last["epoch"] if last["epoch"] else 1.0

    def to_tokens(epoch: Any) -> Any:
        return epoch * tokens_per_epoch

    def to_epochs(tokens: Any) -> Any:
        return tokens / tokens_per_epoch

    tokens = axes.secondary_xaxis("top", functions=(to_tokens, to_epochs))
    tokens.set_xlabel("tokens seen")
    tokens.xaxis.set_major_formatter("{x:,.0f}")
    if answered:
        _plot_answers(rows, answered, figure.add_subplot(2, 1, 2))
    return figure


def _plot_answers(rows: Sequence[Row], keys: Sequence[str], axes: Axes) -> None:
    """Draw the means of the answers that were given while the model trained."""
    for key in keys:
        points = [(row["epoch"], row[key]) for row in rows if key in row]
        axes.plot(*zip(*points, strict=True), label=BY_NAME[ANSWERED[key]].label, marker="o")
    axes.set(xlabel="epochs", ylabel="answers to validation records", ylim=(0, 1))
    axes.legend(frameon=False)


def table(summary: RunSummary) -> str:
    """Return the run in a few lines."""
    lines = [f"{'':22}{'before':>10}{'after':>10}"]
    for key, name in IN_TABLE.items():
        if loss := summary.losses.get(key):
            lines.append(f"{name:22}{loss.first:10.3f}{loss.last:10.3f}")
    if summary.best_validation_loss is not None:
        lines.append(f"{'whole validation, best':22}{'':10}{summary.best_validation_loss:10.3f}")
    lines.append(
        f"{counted(summary.steps, 'step')}, {summary.tokens_seen:,} tokens in "
        f"{summary.seconds:.0f} s ({summary.tokens_per_sec:,.0f} tokens/s)"
    )
    if summary.peak_memory_bytes:
        lines[-1] += f", peak memory {summary.peak_memory_bytes / 2**30:.1f} GiB"
    return "\n".join(lines)
