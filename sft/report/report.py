"""The report of an evaluation, in two files.

`report.html` is a page that opens from the disk and loads nothing over a network. `report.md` holds
its main numbers, for a terminal or a pull request.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, FileSystemLoader
from markupsafe import Markup

from sft.atomic import finite, write_text
from sft.config.loading import flat
from sft.dataclass_json import to_json
from sft.report.page import Row, contents
from sft.scoring.results import EvaluationSummary, RecordResult
from sft.summaries import RunSummary

TEMPLATES = Path(__file__).parent / "templates"


def write_report(
    folder: Path,
    summary: EvaluationSummary,
    rows: list[RecordResult],
    run: RunSummary | None,
    metrics: Sequence[Row] | None,
) -> None:
    """Write `report.html` and `report.md`.

    Args:
        run: the summary of the run that made the model; None if there is none.
        metrics: the rows of the run's metrics.csv.

    Raises:
        InputError: a file cannot be written.
    """
    summary, rows, run, metrics = (finite(part) for part in (summary, rows, run, metrics or []))
    shown = contents(summary, rows, run, metrics)

    # The page's policy lets this script run and no other, by its hash.
    script = read_template("report.js")
    script_sha256 = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = (
        environment(empty_if_none)
        .get_template("report.html.jinja")
        .render(
            shown,
            style=Markup(read_template("report.css")),
            script=Markup(script),
            script_sha256=script_sha256,
            rows=_in_script(rows),
        )
    )
    text = environment(_plain_in_markdown).get_template("report.md.jinja").render(shown)
    write_text(folder / "report.html", page)
    write_text(folder / "report.md", text.strip() + "\n")


def read_template(name: str) -> str:
    """Return the text of a file in `templates/`."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _in_script(rows: list[RecordResult]) -> Markup:
    """Return JSON for a <script> element: nothing in it can end the element or open another."""
    text = json.dumps(to_json(rows), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def environment(finalize: Callable[[Any], Any]) -> Environment:
    """Return templates in which each value goes through `finalize` and is then escaped.

    An absent value is empty.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=ChainableUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for read in (capitalize_first, number, signed, interval, p_value, duration, keys_and_values):
        environment.filters[read.__name__] = read
    return environment


def empty_if_none(value: Any) -> Any:
    """Return the value, or an empty text for None."""
    return "" if value is None else value


def _plain_in_markdown(value: Any) -> Markup:
    """Return the value as text that Markdown shows as it is, on one line."""
    if isinstance(value, Markup):
        return value
    text = " ".join(str(empty_if_none(value)).split())
    return Markup(re.sub(r"([\\`*_\[\]<>|#~&$])", r"\\\1", text))


def capitalize_first(text: str) -> str:
    """Return the text with a capital letter at its beginning; the others stay as they are."""
    return text[:1].upper() + text[1:]


def number(value: Any, digits: int = 3) -> str:
    """Return a number as readers expect it; a dash for any other value."""
    if not isinstance(value, int | float):
        return "–"
    if abs(value) >= 1e9:
        text = f"{value:.2e}"
    elif isinstance(value, int):
        text = f"{value:,}"
    else:
        # Adding 0.0 makes -0.0 a 0.0.
        text = f"{round(value, digits) + 0.0:,.{digits}f}"
    return text.replace("-", "−")


def signed(value: Any, digits: int = 3) -> str:
    """Return a number with its sign, also where it is above 0."""
    above = isinstance(value, int | float) and round(value, digits) > 0
    return ("+" if above else "") + number(value, digits)


def interval(value: Any, digits: int = 3) -> str:
    """Return an interval as in "0.750 to 0.861"; an empty text if there is none."""
    return " to ".join(number(end, digits) for end in value) if value and None not in value else ""


def p_value(value: Any) -> str:
    """Return a p-value as in "p = 0.250"; an empty text if there is none."""
    if not isinstance(value, int | float):
        return ""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def duration(seconds: Any) -> str:
    """Return a time in seconds, minutes or hours; a dash if there is none."""
    if not isinstance(seconds, int | float):
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def keys_and_values(values: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Return the values of nested dicts by their dotted keys, as on the command line."""
    shown = []
    for key, value in flat(values or {}).items():
        shown.append((key, value if isinstance(value, str) else json.dumps(value)))
    return shown
