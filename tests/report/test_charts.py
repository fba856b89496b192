"""The report's charts: their colours, their descriptions, and what they leave out."""

import re

from sft.report.charts import answer_curves, histogram, loss_curves
from sft.report.page import parting
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


ANSWERED = [
    {"epoch": 1.0, "val/full_loss": 0.4, "val/exact_match": 0.25, "val/chrf": 0.5},
    {"epoch": 1.5, "val/exact_match": None},
    {"epoch": 2.0, "val/full_loss": 0.5, "val/exact_match": 0.75, "val/chrf": 0.5},
]


def test_answers_in_training_are_drawn_and_it_is_said_where_loss_and_answers_part() -> None:
    curves = answer_curves(ANSWERED)
    assert curves is not None
    assert "they end at: exact match 0.750, chrF 0.500" in curves
    assert parting(ANSWERED) == (
        "the validation loss was lowest at epoch 1 (0.400); exact match was best at epoch 2 "
        "(0.750), chrF was best at epoch 1 (0.500)"
    )


def test_without_answers_in_training_nothing_is_said_of_them() -> None:
    metrics = made_up.metrics()
    assert answer_curves(metrics) is None
    assert parting(metrics) is None
    assert parting([]) is None
