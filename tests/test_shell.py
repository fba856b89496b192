"""What a message tells to type does what it says, whatever the folder's name."""

import shlex
import subprocess
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from sft.shell import setting, shown

NAMES = [
    "outputs/2026-01-31/12-00-00-gpt2-nano",
    "my runs/x",
    "a (b)",
    "it's",
    'say "x"',
    "a,b",
    "[x]",
    "{x}",
    "a=b",
]
NAMES += [
    "$HOME/x",
    "ü/é",
    "a\\'b",
    "a\\",
    "a\\b",
    '\\"x',
    "a'b\"c\\\\'",
    "a:b",
    "`x`",
    "!x",
    "~/x",
    "-x",
    " x ",
    "*",
    "#x",
]
NAMES += ["1", "1.5", "1e5", "null", "True", "nan"]


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_survives_the_shell_and_hydra(name: str) -> None:
    told = setting("run", name)
    words = shlex.split(told)
    assert len(words) == 1
    assert OverridesParser.create().parse_override(words[0]).value() == name
    assert (
        subprocess.run(["sh", "-c", f"printf %s {told}"], capture_output=True, text=True).stdout
        == words[0]
    )


def test_a_plain_name_has_no_quotes_and_a_blank_has_few() -> None:
    assert setting("run", NAMES[0]) == f"run={NAMES[0]}"
    assert setting("run", "my runs/x") == "run=\"'my runs/x'\""


def test_a_path_outside_the_working_folder_is_shown_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert shown(tmp_path / "here" / "run") == "run"
    assert shown(Path("..data")) == "..data"
    assert shown(tmp_path / "there") == str(tmp_path / "there")
