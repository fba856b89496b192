"""The report's pictures: SVG that takes its colours from the page around it, and so follows it into the dark."""

import io
import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

INK, LINE, TUNED, BASE, VALIDATION, BEST = (
    f"#00000{n}" for n in range(1, 7)
)  # to be told apart, not to be seen
ON_THE_PAGE = {
    INK: "var(--quiet)",
    LINE: "var(--line)",
    TUNED: "var(--tuned)",
    BASE: "var(--base)",
    VALIDATION: "var(--validation)",
    BEST: "var(--best)",
}
STYLE = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "report",  # the same picture is the same text
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


def loss_curves(metrics: Sequence[dict[str, float | None]]) -> Markup | None:
    """Train and validation loss against epochs; None if none was taken."""
    points = {
        key: [
            (row["epoch"], row[key])
            for row in metrics
            if row.get(key) is not None and row.get("epoch") is not None
        ]
        for key, *_ in CURVES
    }
    if not any(points.values()):
        return None
    with rc_context(STYLE):  # type: ignore[arg-type]  # its keys are a Literal
        figure, axes = _figure("epochs", "loss (nats per token)")
        for key, label, style in CURVES:
            if points[key]:
                axes.plot(*zip(*points[key], strict=True), label=label, **style)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.legend()
        last = [f"{label} {points[key][-1][1]:.3f}" for key, label, _ in CURVES if points[key]]
        return _svg(
            figure, "losses", f"Loss curves over the training; they end at: {', '.join(last)}"
        )


def histogram(values: dict[str, list[float]], top: float, label: str) -> Markup | None:
    """How many records lie in each twentieth of 0 to `top`, for each model by its name; None without a value."""
    colours = {"base": BASE, "tuned": TUNED}
    names = [name for name in colours if values.get(name)]
    if not names:
        return None
    with rc_context(STYLE):  # type: ignore[arg-type]
        figure, axes = _figure(label, "records")
        bins = [top * n / 20 for n in range(21)]
        axes.hist(
            [values[name] for name in names],
            bins,
            color=[colours[name] for name in names],
            label=names,
        )
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
        means = [f"{name} {sum(values[name]) / len(values[name]):.3g}" for name in names]
        return _svg(figure, "histogram", f"Histogram of {label}; the means are: {', '.join(means)}")


def _figure(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(
        figsize=(5.2, 3), layout="constrained"
    )  # 10-point text can still be read at a phone's width
    axes = figure.add_subplot()
    axes.set(xlabel=x, ylabel=y)
    axes.tick_params(length=0)
    return figure, axes


def _svg(figure: Figure, name: str, description: str) -> Markup:
    """The figure as an element of a page, whose ids begin with `name`."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    figure_only = file.getvalue()[file.getvalue().index("<svg ") + len("<svg ") :]
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", figure_only)
    for placeholder, colour in ON_THE_PAGE.items():
        text = text.replace(placeholder, colour)
    return Markup('<svg role="img" aria-label="{}" ').format(description) + Markup(text)
