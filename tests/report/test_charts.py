"""The report's charts: their colours, their descriptions, and what they leave out."""

import re

from sft.report.charts import histogram, loss_curves
from tests.evaluation import made_up


def test_charts_are_drawn_in_the_colours_of_the_page() -> None:
    curves = loss_curves(made_up.metrics())
    assert curves == loss_curves(made_up.metrics())
    assert curves is not None
    assert (
        'aria-label="Loss curves over the training; they end at: each step 0.137, train 0.037, '
        in curves
    )
    assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", curves)) <= {
        "none",
        *(f"var(--{name})" for name in ("quiet", "line", "tuned", "validation", "best")),
    }
    bars = histogram({"tuned": [0, 50, 100, 100], "base": [1, 2]}, 100, "judge's score")
    assert bars is not None
    assert (
        'aria-label="Histogram of judge&#39;s score; the means are: base 1.5, tuned 62.5"' in bars
    )


def test_charts_of_nothing() -> None:
    assert loss_curves([]) is None
    assert loss_curves([{"step": 1, "epoch": 0.1, "train/loss": None}]) is None
    assert histogram({"tuned": [], "base": []}, 1, "chrF") is None
