"""The page that shows groups of runs beside each other: `report.html` of a sweep."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sft.atomic import finite, write_text
from sft.dataclass_json import to_json
from sft.metrics import BY_NAME
from sft.report.charts import GroupRows, group_curves
from sft.report.report import empty_if_none, environment, read_template
from sft.scoring.groups import GroupsSummary

Json = dict[str, Any]

# How many of a group's different answers to a record are shown.
ANSWERS = 3


def write_groups_page(
    folder: Path,
    comparison: GroupsSummary,
    curves: GroupRows,
    labels: dict[str, str],
    basis: str,
    remarks: Sequence[str],
) -> Path:
    """Write `report.html` of groups of runs, and return its path.

    Args:
        curves: the label of each group, the best first, and the rows of metrics.csv of its runs.
        labels: the name of each metric for people.
        basis: which seeds and records there were.
        remarks: what the intervals mean.

    Raises:
        InputError: the file cannot be written.
    """
    found: Json = finite(to_json(comparison))
    rank = found["ranked_by"]
    groups = [found["groups"][place] for place in found["order"]]
    largest = max(_end(group["means"][rank]) for group in groups)
    page = (
        environment(empty_if_none)
        .get_template("groups.html.jinja")
        .render(
            found=found,
            rank=rank,
            groups=groups,
            labels=labels,
            others=[name for name in labels if name != rank],
            digits={name: BY_NAME[name].digits if name in BY_NAME else 3 for name in labels},
            top=(BY_NAME[rank].top if rank in BY_NAME else None) or largest or 1,
            basis=basis,
            remarks=remarks,
            curves=group_curves(finite(curves)),
            shown=ANSWERS,
            style=Markup(read_template("report.css")),
        )
    )
    path = folder / "report.html"
    write_text(path, page)
    return path


def _end(mean: Json) -> float:
    """Return the upper end of a mean's interval; without one, the mean."""
    return float(mean["interval"][1] if mean["interval"] else mean["mean"])
