"""`--help` shows every key with its value and its comment."""

import re
from pathlib import Path

import pytest
from hydra import compose

from sft.config.help import all_comments, comments, settings
from tests.config.composing import CONF, KINDS, keys


def help_of(door: str, *overrides: str) -> str:
    return settings(door, _root_=compose(door, list(overrides), return_hydra_config=True))


def by_key(text: str) -> dict[str, tuple[str, str]]:
    """Return value and comment of each key of the help."""
    found: dict[str, tuple[str, str]] = {}
    group = ""
    for line in text.splitlines():
        if match := re.match(r"( +)(\w+):(.*?)(?:# (.*))?$", line):
            indent, name, value, comment = match.groups()
            group = group if len(indent) > 2 else ""
            found[group + name] = (value.strip(), comment or "")
            if not value.strip():
                group = f"{name}."
    return found


@pytest.mark.parametrize("door", KINDS)
def test_every_key_has_its_value_and_comment(door: str) -> None:
    found = by_key(help_of(door))
    assert keys(KINDS[door]) <= found.keys()
    for key in keys(KINDS[door]):
        value, comment = found[key]
        assert value, key
        assert re.match(r"\S.{10,}", comment), key


def test_values_are_those_of_the_command_line() -> None:
    found = by_key(help_of("train", "batch_size=3", "data=json", "eval.sample=false"))
    assert (found["batch_size"][0], found["data.source"][0]) == ("3", "json")
    assert (found["eval.sample"][0], found["data.path"][0]) == ("false", "null")
    assert found["data.split"][0] == "[0.85, 0.1, 0.05]"


@pytest.mark.parametrize("door", KINDS)
def test_the_text_is_not_cut_and_fits(door: str) -> None:
    text = help_of(door)
    assert max(map(len, text.splitlines())) <= 100
    words = " ".join(re.sub(r"[^#]*# ?", "", line, count=1) for line in text.splitlines())
    for key in keys(KINDS[door]):
        assert all_comments(CONF, door)[key].replace("$", "$$") in words, key


def test_a_dollar_survives_hydras_template() -> None:
    assert "$$OPENAI_API_KEY" in help_of("evaluate")
    assert not re.search(r"(?<!\$)\$(?!\$)", help_of("evaluate"))


def test_comments_go_on_below_their_key(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "# Head.\n"
        "defaults:\n"
        "  - data: nano  # a choice\n"
        "\n"
        "optim:          # A group.\n"
        "  lr: 5e-5      # Highest\n"
        "                # learning rate.\n"
        "  plain: 1\n"
        "                # Of no key.\n"
        'text: "a#b"     # One: two.\n'
        "\n"
        "hydra:\n"
        "  job: 1        # Hydra's own.\n"
    )
    assert comments(path) == {
        "optim": "A group.",
        "optim.lr": "Highest learning rate.",
        "text": "One: two.",
    }
