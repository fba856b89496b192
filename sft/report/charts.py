"""The report's charts: SVG in the colours of the page around it, so that they follow dark mode."""

import io
import re
from collections.abc import Mapping, Sequence
from itertools import chain, cycle
from statistics import fmean as mean
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from sft.metrics import BY_NAME, TEXT_METRICS

# Placeholders, which matplotlib draws with and `_svg` replaces. They only have to differ.
INK = "#000001"
LINE = "#000002"
TUNED = "#000003"
BASE = "#000004"
VALIDATION = "#000005"
BEST = "#000006"

ON_THE_PAGE = {
    INK: "var(--quiet)",
    LINE: "var(--line)",
    TUNED: "var(--tuned)",
    BASE: "var(--base)",
    VALIDATION: "var(--validation)",
    BEST: "var(--best)",
}

# Text stays text (`fonttype`), in the page's font. With a fixed salt, the same chart is the same
# SVG.
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}

# The column of metrics.csv, the label, and the style of each curve.
CURVES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("train/loss", "each step", {"color": TUNED, "alpha": 0.35, "linewidth": 1}),
    ("train/eval_loss", "train", {"color": TUNED}),
    ("val/loss", "validation", {"color": VALIDATION, "linestyle": "--"}),
    (
        "val/full_loss",
        "validation, all of it",
        {"color": BEST, "marker": "o", "markersize": 5, "linestyle": ":"},
    ),
)


def loss_curves(metrics: Sequence[Mapping[str, float | None]]) -> Markup | None:
    """Draw training and validation loss against epochs; None if no loss was taken."""
    points: dict[str, list[tuple[Any, Any]]] = {}
    for key, *_ in CURVES:
        taken = [(row.get("epoch"), row.get(key)) for row in metrics]
        if found := [point for point in taken if None not in point]:
            points[key] = found
    if not points:
        return None

    with rc_context(STYLE):
        figure, axes = _figure("epochs", "loss (nats per token)")
        ends: list[str] = []
        for key, label, style in CURVES:
            if key in points:
                epochs, losses = zip(*points[key], strict=True)
                axes.plot(epochs, losses, label=label, **style)
                ends.append(f"{label} {losses[-1]:.3f}")
        _log_losses(axes)
        axes.legend()
        description = f"Loss curves over the training; they end at: {', '.join(ends)}"
        return _svg(figure, "losses", description)


def answer_curves(metrics: Sequence[Mapping[str, float | None]]) -> Markup | None:
    """Draw the means of the answers given in training against epochs; None if none were given."""
    with rc_context(STYLE):
        figure, axes = _figure("epochs", "mean over the answers")
        ends: list[str] = []
        for (colour, line), name in zip(GROUP_STYLES, TEXT_METRICS, strict=False):
            taken = [(row.get("epoch"), row.get(f"val/{name}")) for row in metrics]
            points: list[tuple[Any, Any]] = [point for point in taken if None not in point]
            if points:
                epochs, values = zip(*points, strict=True)
                label = BY_NAME[name].label
                axes.plot(epochs, values, label=label, color=colour, linestyle=line, marker="o")
                ends.append(f"{label} {values[-1]:.3f}")
        if not ends:
            return None
        axes.set_ylim(0, 1)
        axes.legend()
        description = f"Answers to validation records in training; they end at: {', '.join(ends)}"
        return _svg(figure, "answers", description)


# The colours and lines of groups of runs; after the last, they begin again.
GROUP_STYLES: tuple[tuple[str, str], ...] = tuple(
    (colour, line) for line in ("-", "--", ":") for colour in (TUNED, VALIDATION, BASE, BEST)
)

# The label of each group, and the rows of metrics.csv of each of its runs.
GroupRows = Sequence[tuple[str, Sequence[Sequence[Mapping[str, float | None]]]]]


def group_curves(groups: GroupRows) -> Markup | None:
    """Draw each group's validation loss against epochs, with a band over its seeds.

    The line is the mean of the seeds, the band reaches from the lowest to the highest. None if no
    loss was taken.
    """
    with rc_context(STYLE):
        figure, axes = _figure("epochs", "validation loss (nats per token)")
        ends: list[str] = []
        styles = cycle(GROUP_STYLES)
        for label, runs in groups:
            taken: dict[float, list[float]] = {}
            for row in chain(*runs):
                epoch, loss = row.get("epoch"), row.get("val/loss")
                if epoch is not None and loss is not None:
                    taken.setdefault(epoch, []).append(loss)
            if not taken:
                continue

            epochs = sorted(taken)
            means = [mean(taken[epoch]) for epoch in epochs]
            lowest = [min(taken[epoch]) for epoch in epochs]
            highest = [max(taken[epoch]) for epoch in epochs]
            colour, line = next(styles)
            axes.plot(epochs, means, label=label, color=colour, linestyle=line)
            axes.fill_between(epochs, lowest, highest, color=colour, alpha=0.2, linewidth=0)
            ends.append(f"{label} {means[-1]:.3f}")
        if not ends:
            return None
        _log_losses(axes)
        axes.legend()
        description = f"Mean validation loss over the seeds; at its end: {', '.join(ends)}"
        return _svg(figure, "groups", description)


def _log_losses(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def histogram(values: dict[str, list[float]], top: float, label: str) -> Markup | None:
    """Draw how many records lie in each twentieth of 0 to `top`; None without a value.

    Args:
        values: those of each model, `base` and `tuned`.
    """
    colours = {"base": BASE, "tuned": TUNED}
    names = [name for name in colours if values.get(name)]
    if not names:
        return None

    with rc_context(STYLE):
        figure, axes = _figure(label, "records")
        axes.hist(
            [values[name] for name in names],
            [top * n / 20 for n in range(21)],
            color=[colours[name] for name in names],
            label=names,
        )
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
        means = [f"{name} {sum(values[name]) / len(values[name]):.3g}" for name in names]
        return _svg(figure, "histogram", f"Histogram of {label}; the means are: {', '.join(means)}")


# Where the lengths end on their axis, in contexts.
LONGEST_DRAWN = 4


def lengths_histogram(lengths: Sequence[int], context: int) -> Markup:
    """Draw how many records have which length in tokens, and where the context cuts them.

    A few very long records would leave no room for the others, so the last bar holds them.
    """
    longest = max(lengths)
    end = min(longest, LONGEST_DRAWN * context)
    label = "tokens of prompt and answer"
    if longest > end:
        label += f" (last bar: up to {longest:,})"
    with rc_context(STYLE):
        figure, axes = _figure(label, "records")
        axes.hist([min(length, end) for length in lengths], 40, range=(0, end), color=TUNED)
        words = f"Histogram of the records' lengths; the longest has {longest:,} tokens"
        if longest > context:
            axes.axvline(context, color=BEST, linestyle="--", label=f"context, {context:,}")
            axes.legend()
            words += f", and the context is {context:,}"
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        return _svg(figure, "lengths", words)


def _figure(x: str, y: str) -> tuple[Figure, Axes]:
    # At this size, 10-point text can still be read on a phone.
    figure = Figure(figsize=(5.2, 3), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=x, ylabel=y)
    axes.tick_params(length=0)
    return figure, axes


def _svg(figure: Figure, name: str, description: str) -> Markup:
    """Return the figure as an element of a page. Its ids begin with `name`, so they are unique."""
    file = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
    text = file.getvalue().partition("<svg ")[2]

    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", text)
    for placeholder, colour in ON_THE_PAGE.items():
        text = text.replace(placeholder, colour)
    return Markup('<svg role="img" aria-label="{}" ').format(description) + Markup(text)
