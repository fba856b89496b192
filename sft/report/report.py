"""The evaluation to look at: `report.html`, a page that opens from the disk and asks no network for anything, and
`report.md`, its headline for a terminal or a pull request."""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, FileSystemLoader
from markupsafe import Markup

from sft.atomic import finite, write_text
from sft.report.page import Json, contents

TEMPLATES = Path(__file__).parent / "templates"


def write_report(
    folder: Path, summary: Json, rows: list[Json], run: Json | None, metrics: list[Json] | None
) -> None:
    """Write `report.html` and `report.md`.

    Args:
        summary: the evaluation's, as in its summary.json; all of its parts but the tuned model's may be absent.
        rows: one for each record: the record, and each model's answer with its numbers.
        run: the summary of the run that made the model; None if there is none.
        metrics: the rows of the run's metrics.csv.

    Raises:
        InputError: a file cannot be written.
    """
    summary, rows, run, metrics = (finite(part) for part in (summary, rows, run, metrics or []))
    shown = contents(summary, rows, run, metrics)
    script = _read("report.js")
    page = (
        _environment(_empty_if_none)
        .get_template("report.html.jinja")
        .render(
            shown,
            style=Markup(_read("report.css")),
            script=Markup(script),
            script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            rows=_in_script(rows),
        )
    )
    text = _environment(_plain_in_markdown).get_template("report.md.jinja").render(shown)
    write_text(folder / "report.html", page)
    write_text(folder / "report.md", text.strip() + "\n")


def _read(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _in_script(rows: list[Json]) -> Markup:
    """JSON that can stand in a page's <script>: nothing in it can end the element or open another."""
    text = json.dumps(rows, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(
        text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    )


def _environment(finalize: Callable[[Any], Any]) -> Environment:
    """Templates in which every value goes through `finalize` and is then escaped; what is absent is empty."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=ChainableUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for read in (number, signed, interval, p_value, duration, flat):
        environment.filters[read.__name__] = read
    return environment


def _empty_if_none(value: Any) -> Any:
    return "" if value is None else value


def _plain_in_markdown(value: Any) -> Markup:
    """The value as text that Markdown shows as it is, on one line."""
    if isinstance(value, Markup):
        return value
    text = " ".join(str(_empty_if_none(value)).split())
    return Markup(re.sub(r"([\\`*_\[\]<>|#~&$])", r"\\\1", text))


def number(value: Any, digits: int = 3) -> str:
    """A number to read; a dash where there is none."""
    if not isinstance(value, int | float):
        return "–"
    text = (
        f"{value:,}" if isinstance(value, int) else f"{round(value, digits) + 0.0:,.{digits}f}"
    )  # -0.0 + 0.0 = 0.0
    return (text if abs(value) < 1e9 else f"{value:.2e}").replace("-", "−")


def signed(value: Any, digits: int = 3) -> str:
    return ("+" if isinstance(value, int | float) and round(value, digits) > 0 else "") + number(
        value, digits
    )


def interval(value: Any, digits: int = 3) -> str:
    """As in "0.750 to 0.861"; empty where there is none."""
    return " to ".join(number(end, digits) for end in value) if value and None not in value else ""


def p_value(value: Any) -> str:
    if not isinstance(value, int | float):
        return ""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def duration(seconds: Any) -> str:
    if not isinstance(seconds, int | float):
        return "–"
    minutes = seconds / 60
    return (
        f"{seconds:.0f} s"
        if minutes < 2
        else f"{minutes:.0f} min"
        if minutes < 120
        else f"{minutes / 60:.1f} h"
    )


def flat(values: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The values of nested dicts by their dotted keys, as they are given on the command line."""
    for key, value in (values or {}).items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)
