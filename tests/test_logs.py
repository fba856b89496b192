"""What a terminal or a file cannot show ends no run, and what would control a terminal is shown."""

import ast
import json
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sft import logs
from sft.errors import InputError
from tests.forked import Command

ROOT = Path(__file__).parents[1]

# The log


def test_the_log_is_for_rank_0_and_begins_with_its_first_line(
    command: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = logging.getLogger("sft.somewhere")
    monkeypatch.setenv("RANK", "1")
    logs.log_to(tmp_path / "train.log")
    log.info("of rank 1")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.delenv("RANK")
    logs.log_to(tmp_path / "train.log")
    logs.log_to(tmp_path / "train.log")
    assert list(tmp_path.iterdir()) == []
    log.info("é")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \S+ é\n", (tmp_path / "train.log").read_text(encoding="utf-8")
    )
    assert capsys.readouterr().out == "é\n"


def test_a_log_that_cannot_be_written_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "train.log").symlink_to("/dev/full")
    logs.log_to(tmp_path / "train.log")
    with pytest.raises(
        InputError, match=r"train\.log: cannot be written \(No space left on device\)"
    ):
        logging.getLogger("sft").info("lost")
    logging.getLogger("sft").handlers.clear()


def test_output_that_is_not_utf8_ends_no_run(tmp_path: Path, checkpoint: Path) -> None:
    record = {"instruction": "clear\x1b[2J", "output": "\u65e5 \u20ac \x9b2J\u202e\tend"}
    (tmp_path / "data.json").write_text(json.dumps([record] * 20))
    small = ("max_steps=1", "batch_size=2", "eval.every=0", "data.prompt=alpaca")
    small += (f"model.checkpoint={checkpoint}", "model.allow_untrained=true")
    data = ("data=json", "data.path=data.json", "data.mask_prompt=true")
    given = (*small, *data, "evaluate=true", "hydra.run.dir=run", "device=cpu")
    command = (str(ROOT / "train.py"), *given)
    found = Command(*command, folder=tmp_path, PYTHONIOENCODING="cp1252:strict").finish()
    assert found.returncode == 0, found.stderr
    assert b"Traceback" not in found.stderr
    shown = found.stdout.decode("cp1252")

    # The terminal gets escapes, and one ? for each letter that it cannot show.
    assert "clear\\x1b[2J" in shown
    assert "?? \u20ac \\x9b2J\\u202e\tend" in shown
    assert "\x1b[2J" not in shown

    # The files keep the text as it is.
    log = (tmp_path / "run" / "train.log").read_text(encoding="utf-8")
    assert "\u27e6\u65e5 \u20ac \x9b2J\u202e\tend" in log


def test_streams_that_are_closed_become_empty_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    logs.prepare_streams()
    with sys.stdin, sys.stdout, sys.stderr:
        assert sys.stdin.read() == ""
        print("lost", file=sys.stderr)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "tab\tand\nline, \u00e9 \U0001f600 \u200d\u00ad",
            "tab\tand\nline, \u00e9 \U0001f600 \u200d\u00ad",
        ),
        ("\x1b]0;x\x07", "\\x1b]0;x\\x07"),
        ("a\r\x08\x0b\x0c\x00\x7f", "a\\r\\x08\\x0b\\x0c\\x00\\x7f"),
        ("\x9b\u202e\u2066", "\\x9b\\u202e\\u2066"),
    ],
)
def test_control_characters_are_shown_and_not_obeyed(text: str, shown: str) -> None:
    assert logs.visible(text) == shown


def opened_without_encoding(path: Path) -> list[str]:
    """Return the calls in a file that open a text file in the encoding of the machine."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = (
            node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        )
        owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        known = name in ("read_text", "write_text", "FileHandler") or (
            name == "open" and owner != "os"
        )
        constants = [
            part.value
            for value in node.args
            for part in ast.walk(value)
            if isinstance(part, ast.Constant)
        ]
        binary = {"rb", "wb", "ab", "rb+"} & set(constants)

        # Functions of sft's own have these names, too.
        ours = isinstance(node.func, ast.Name) and name in ("read_text", "write_text")
        if not known or ours or binary:
            continue
        if "encoding" not in {keyword.arg for keyword in node.keywords}:
            found.append(f"{path.name}:{node.lineno}: {ast.unparse(node)}")
    return found


def test_files_are_always_utf8(tmp_path: Path) -> None:
    sources = [*ROOT.glob("*.py"), *(ROOT / "sft").rglob("*.py")]
    assert [line for path in sources for line in opened_without_encoding(path)] == []
    (tmp_path / "x.py").write_text(
        "p.open('a')\nopen(p)\np.read_text()\np.open('rb')\nos.open(p, 0)\n"
    )
    assert len(opened_without_encoding(tmp_path / "x.py")) == 3
