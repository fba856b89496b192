"""The page that shows what people's votes on answers say."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from sft.report.report import empty_if_none, environment, read_template

Json = dict[str, Any]


def votes_page(found: Json, summary: str, remarks: Sequence[str]) -> str:
    """Return the page.

    Args:
        found: the outcome, as in `outcome.json`.
        summary: how many votes there are, in words.
        remarks: what to know of the numbers.
    """
    rated = found["ratings"] or []
    ends = [end for one in rated for end in one["interval"] or [one["points"]]]
    return (
        environment(empty_if_none)
        .get_template("votes.html.jinja")
        .render(
            found=found,
            summary=summary,
            remarks=remarks,
            ratings=sorted(rated, key=lambda one: -one["points"]),
            low=min(ends, default=0.0),
            span=(max(ends, default=0.0) - min(ends, default=0.0)) or 1.0,
            style=Markup(read_template("report.css")),
        )
    )
