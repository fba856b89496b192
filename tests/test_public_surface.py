"""Exports, keys, options and files that scripts of users rely on are kept.

An addition passes. `tests/fixtures/record.py` says how to have it kept from then on.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures import surface
from tests.fixtures.record import MADE, SURFACE, evaluated_run

RECORDED = json.loads(SURFACE.read_text(encoding="utf-8"))


def lost(recorded: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The keys that went, and those whose value is another."""
    found = []
    for key, value in recorded.items():
        if key not in now:
            found.append(f"{key}: gone")
        elif now[key] != value:
            found.append(f"{key}: {now[key]!r}, was {value!r}")
    return found


def changed_calls(recorded: list[str], now: list[str]) -> list[str]:
    """Why a call that worked would fail: a parameter went or moved, or a new one must be given."""
    if now[: len(recorded)] != recorded:
        return [f"{now}, was {recorded}"]
    added = now[len(recorded) :]
    return [f"{parameter}: new, without a default" for parameter in added if "=" not in parameter]


@pytest.mark.parametrize("name", RECORDED["sft"])
def test_an_export_of_sft_takes_the_calls_that_it_took(name: str) -> None:
    exports = surface.exports()
    assert name in exports
    assert changed_calls(RECORDED["sft"][name], exports[name]) == []


def test_a_loaded_model_has_its_attributes() -> None:
    now = surface.fields_of_a_loaded_model(MADE / "checkpoint")
    assert [name for name in RECORDED["load_pretrained"] if name not in now] == []


def test_config_groups_have_their_options() -> None:
    now = surface.groups()
    missing = [
        f"{group}={option}"
        for group, options in RECORDED["groups"].items()
        for option in options
        if option not in now.get(group, [])
    ]
    assert missing == []


@pytest.mark.parametrize("door", RECORDED["settings"])
def test_keys_have_their_defaults(door: str) -> None:
    recorded, now = RECORDED["settings"][door], surface.settings(door)
    for choice, differing in recorded.items():
        expected = recorded[""] | differing
        assert lost(expected, now.get(choice, {})) == [], f"{door}.py {choice}"


@pytest.mark.parametrize("module", RECORDED["options"])
def test_options_of_the_smaller_doors_have_their_defaults(module: str) -> None:
    now = surface.options(module)
    for name, recorded in RECORDED["options"][module].items():
        assert name in now
        assert set(recorded["choices"] or ()) <= set(now[name]["choices"] or ())
        assert lost(recorded | {"choices": None}, now[name] | {"choices": None}) == [], name
    added = now.keys() - RECORDED["options"][module].keys()
    assert [name for name in added if now[name]["required"]] == []


def test_an_evaluated_run_leaves_its_files_with_their_keys(tmp_path: Path) -> None:
    run = evaluated_run(tmp_path)
    assert run.relative_to(tmp_path).match("outputs/????-??-??/??-??-??-gpt2-nano")
    now = surface.written(run)
    for what, names in RECORDED["run"].items():
        assert [name for name in names if name not in now[what]] == [], what


def test_a_key_that_goes_and_a_default_that_changes_are_seen() -> None:
    assert lost({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 20, "d": 4}) == ["b: 20, was 2", "c: gone"]
    assert lost({"a": 1}, {"a": 1, "new": 2}) == []
    assert changed_calls(["a", "b=1"], ["a", "b=1", "new=2"]) == []
    assert changed_calls(["a", "b=1"], ["a", "b=1", "new"]) == ["new: new, without a default"]
    assert changed_calls(["a", "b=1"], ["a", "b=2"]) != []
    assert changed_calls(["a", "b=1"], ["a", "new=2", "b=1"]) != []
    assert changed_calls(["a", "b=1"], ["a"]) != []
