"""The report of a made-up evaluation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation import made_up
from tests.evaluation.reading import Seen


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., tuple[Seen, str]]:
    """Write the report of a summary with changes, and read both of its files."""

    def with_changes(
        rows: list[Any] | None = None, run: Any = made_up.RUN, metrics: Any = None, **changes: Any
    ) -> tuple[Seen, str]:
        summary = made_up.summary(made_up.rows()) | changes
        made_up.write_report(
            tmp_path, summary, made_up.rows() if rows is None else rows, run, metrics
        )
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        return Seen(page), (tmp_path / "report.md").read_text(encoding="utf-8")

    return with_changes
