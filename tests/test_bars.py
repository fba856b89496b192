"""A log file gets a line of progress now and then, and nothing that moves a cursor."""

import io

import pytest

from sft import bars
from sft.bars import Bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_file_gets_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bars, "EVERY", 0.0)
    log = io.StringIO()
    for _ in Bar(range(3), "asking", file=log, mininterval=0):
        pass
    lines = log.getvalue().splitlines()
    assert lines[-1].startswith("asking: 100% 3/3 [")
    assert all(line.startswith("asking: ") for line in lines)
    assert "\r" not in log.getvalue()


def test_a_short_wait_leaves_no_line_in_a_log_file() -> None:
    log = io.StringIO()
    with Bar(total=1000, file=log, mininterval=0) as bar:
        for _ in range(1000):
            bar.update()
        bar.set_postfix(loss=1)
    assert log.getvalue() == ""


def test_a_terminal_gets_a_bar() -> None:
    terminal = Terminal()
    for _ in Bar(range(3), file=terminal, mininterval=0):
        pass
    assert "\r100%|" in terminal.getvalue()
