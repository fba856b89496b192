"""Compose a config as the doors do, without starting one."""

import dataclasses
import typing
from pathlib import Path
from typing import Any

import pytest
from hydra import compose

from sft.config.loading import from_hydra
from sft.config.schema import EvaluateConfig, TrainConfig
from sft.errors import InputError

CONF = Path(__file__).parents[2] / "conf"
KINDS: dict[str, type] = {"train": TrainConfig, "evaluate": EvaluateConfig}


def composed(door: str, *overrides: str) -> Any:
    return from_hydra(KINDS[door], compose(door, list(overrides)))


def refused(door: str, *overrides: str) -> str:
    """Return the one line by which the overrides are refused."""
    with pytest.raises(InputError) as error:
        composed(door, *overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def keys(kind: type, where: str = "") -> set[str]:
    """Return the dotted keys of a dataclass."""
    found: set[str] = set()
    for name, hint in typing.get_type_hints(kind).items():
        found |= keys(hint, f"{where}{name}.") if dataclasses.is_dataclass(hint) else {where + name}
    return found
