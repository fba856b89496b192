"""The page of `python -m sft.data --html`: what is in a data set, and what is wrong with it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from sft.atomic import write_text
from sft.data.doctor import CHECKS, PERCENTILES, Examination, share
from sft.report.charts import lengths_histogram
from sft.report.page import Line
from sft.report.report import empty_if_none, environment, read_template

Json = dict[str, Any]


class Difficulties(Protocol):
    """The instruction-following difficulties of records (`sft.evaluation.ifd`)."""

    @property
    def ratios(self) -> NDArray[np.float64]: ...

    def order(self) -> NDArray[np.int64]: ...


# How many records the page shows for each check, and of the longest and the shortest.
SHOWN = 10


def write_page(
    path: Path,
    found: Examination,
    name: str,
    recognised: str,
    counted_by: str,
    splits: Mapping[str, int],
    drawn: Sequence[int],
    difficulty: Difficulties | None = None,
    model: str | None = None,
) -> None:
    """Write the page into one file, which loads nothing over a network.

    Args:
        name: of the data.
        recognised: how many records of which shape the files hold.
        counted_by: in which tokens the lengths are.
        splits: the number of records of each split.
        drawn: the places of the records to show at random.
        difficulty: the IFD of the records, by the model called `model`.

    Raises:
        InputError: the file cannot be written.
    """
    checks = [_check(found, key) for key in CHECKS]
    letters = sum(count for count, _ in found.scripts.values())
    page = (
        environment(empty_if_none)
        .get_template("data.html.jinja")
        .render(
            name=name,
            records=len(found.records),
            recognised=recognised,
            counted_by=counted_by,
            splits=splits,
            checks=checks,
            clean=not any(check["count"] for check in checks),
            columns=[f"{p}%" if p < 100 else "longest" for p in PERCENTILES],
            lengths=[
                Line(label, list(values), digits=0) for label, values in found.percentiles().items()
            ],
            chart=lengths_histogram(found.lengths.tolist(), found.context),
            shared=found.shared,
            pairs={split: _pairs(found, one.pairs) for split, one in found.shared.items()},
            scripts=[
                {
                    "name": script,
                    "share": count / letters,
                    "percent": share(count, letters, digits=2),
                    "records": records,
                }
                for script, (count, records) in found.scripts.items()
            ],
            samples=_samples(found, drawn),
            model=model,
            hardest=_hardest(found, difficulty) if difficulty is not None else [],
            style=Markup(read_template("report.css")),
        )
    )
    write_text(path, page)


def _samples(found: Examination, drawn: Sequence[int]) -> dict[str, list[Json]]:
    """Return records to read: some at random, and those at the ends of the order by length."""
    order = found.by_length().tolist()
    return {
        "At random": [_row(found, place) for place in drawn],
        "The longest": [_row(found, place) for place in order[: -SHOWN - 1 : -1]],
        "The shortest": [_row(found, place) for place in order[:SHOWN]],
    }


def _hardest(found: Examination, difficulty: Difficulties) -> list[Json]:
    """Return the hardest and the easiest records, as tables of the page."""
    hard = difficulty.order().tolist()
    ends = {"The hardest": hard[:SHOWN], "The easiest": hard[: -SHOWN - 1 : -1]}
    tables = []
    for title, places in ends.items():
        rows = [_row(found, place) | {"value": difficulty.ratios[place]} for place in places]
        tables.append({"title": title, "rows": rows})
    return tables


def _check(found: Examination, key: str) -> Json:
    places = found.marked.get(key)
    return {
        "key": key,
        "label": CHECKS[key].label,
        "skipped": found.skipped.get(key),
        "count": None if places is None else len(places),
        "rows": [] if places is None else [_row(found, int(place)) for place in places[:SHOWN]],
    }


def _row(found: Examination, place: int) -> Json:
    """Return a record as the page shows it, with its number from 1."""
    record = found.records[place]
    return {
        "record": place + 1,
        "tokens": int(found.lengths[place]),
        "before": record.before,
        "instruction": record.instruction,
        "input": record.input,
        "output": record.output,
    }


def _pairs(found: Examination, pairs: Sequence[tuple[int, int, float]]) -> list[Json]:
    return [
        {"first": _row(found, first), "second": _row(found, second), "similarity": similarity}
        for first, second, similarity in pairs
    ]
