"""What a run says of itself at its end: `summary.json`, the loss curves, a short table."""

import math
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from sft.files import writing
from sft.training.metrics import Metrics, Row


def losses(rows: list[Row]) -> dict[str, dict[str, float | None]]:
    """First and last value of each loss that was taken."""
    keys = ("train/loss", "train/eval_loss", "val/loss", "val/full_loss")
    taken = {key: [row[key] for row in rows if key in row] for key in keys}
    return {key: {"first": values[0], "last": values[-1]} for key, values in taken.items() if values}


def peak_memory_bytes(device: str) -> int:
    """The most memory in use so far: the GPU's for CUDA, else this process's resident set (getrusage(2))."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def plot_losses(rows: list[Row], folder: Path) -> None:
    """`loss.png` and `loss.pdf`: train and validation against epochs, with the tokens seen on a second axis."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    curves: list[tuple[str, str, dict[str, Any]]] = [
        ("train/loss", "each step", {"color": "tab:blue", "alpha": 0.25, "linewidth": 1}),
        ("train/eval_loss", "train", {"color": "tab:blue"}),
        ("val/loss", "validation", {"color": "tab:orange", "linestyle": "--"}),
        ("val/full_loss", "validation, all of it", {"color": "tab:red", "marker": "o", "linestyle": ":"}),
    ]
    for key, label, style in curves:
        points = [(row["epoch"], row[key]) for row in rows if key in row]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, **style)
    axes.set(xlabel="epochs", ylabel="loss (nats per token)", yscale="log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.legend(frameon=False)
    last = max(rows, key=lambda row: row["step"])
    tokens_per_epoch = last["tokens_seen"] / last["epoch"] if last["epoch"] else 1.0

    def to_tokens(epoch: Any) -> Any:
        return epoch * tokens_per_epoch

    def to_epochs(tokens: Any) -> Any:
        return tokens / tokens_per_epoch

    tokens = axes.secondary_xaxis("top", functions=(to_tokens, to_epochs))
    tokens.set_xlabel("tokens seen")
    tokens.xaxis.set_major_formatter("{x:,.0f}")
    for name in ("loss.png", "loss.pdf"):
        with writing(folder / name):
            figure.savefig(folder / name, dpi=150)


def summarise(metrics: Metrics, device: str) -> dict[str, Any]:
    """The numbers of a finished run. Losses are in nats per supervised token."""
    rows = metrics.file.rows
    return {
        "status": "finished",
        "steps": int(rows[-1]["step"]),
        "epochs": rows[-1]["epoch"],
        "tokens_seen": metrics.tokens_seen,
        "seconds": round(metrics.seconds, 2),
        "tokens_per_sec": round(metrics.tokens_seen / metrics.seconds, 1),
        "losses": losses(rows),
        "peak_memory_bytes": peak_memory_bytes(device),
    }


def table(summary: dict[str, Any]) -> str:
    """The run in a few lines."""
    lines = [f"{'':22}{'before':>10}{'after':>10}"]
    names = {"train/eval_loss": "train loss", "val/loss": "validation loss"}
    for key, name in names.items():
        if key in summary["losses"]:
            loss = summary["losses"][key]
            lines.append(f"{name:22}{loss['first']:10.3f}{loss['last']:10.3f}")
    if math.isfinite(summary["best_validation_loss"]):
        lines.append(f"{'whole validation, best':22}{'':10}{summary['best_validation_loss']:10.3f}")
    lines.append(
        f"{summary['steps']} steps, {summary['tokens_seen']:,} tokens in {summary['seconds']:.0f} s "
        f"({summary['tokens_per_sec']:,.0f} tokens/s), peak memory {summary['peak_memory_bytes'] / 2**30:.1f} GiB"
    )
    return "\n".join(lines)
