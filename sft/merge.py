"""The one way from Hydra's config into the dataclasses of `sft/config.py`; what does not fit them is refused by key."""

import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

from sft.config import InputError

T = TypeVar("T")


def from_hydra(kind: type[T], composed: Any) -> T:
    """The dataclass of `kind` that a composed DictConfig describes.

    Raises:
        InputError: a key that is not there or not known, a value of the wrong type or out of its range; by key.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        if missing := sorted(OmegaConf.missing_keys(composed)):
            raise InputError(f"{missing[0]}: missing; give it on the command line as {missing[0]}=...")
        return from_dict(kind, OmegaConf.to_container(composed, resolve=True))  # type: ignore[arg-type]
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        raise InputError(f"{key or 'config'}: {str(error).splitlines()[0]}") from error


def from_dict(kind: type[T], values: dict[str, Any], where: str = "") -> T:
    """The dataclass of `kind` that plain values describe; the errors are those of `from_hydra`."""
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    if unknown := [key for key in values if key not in known]:
        raise InputError(f"{where}{unknown[0]}: unknown key; known here: {', '.join(known)}")
    hints = typing.get_type_hints(kind)
    arguments: dict[str, Any] = {}
    for name, item in known.items():
        key = where + name
        if name in values and is_dataclass(hints[name]):
            if not isinstance(values[name], dict):
                raise InputError(f"{key}: found {values[name]!r}, expected a group of keys")
            arguments[name] = from_dict(hints[name], values[name], key + ".")
        elif name in values:
            arguments[name] = _checked(_typed(values[name], hints[name], key), item.metadata, key)
        elif item.default is MISSING and item.default_factory is MISSING:
            raise InputError(f"{key}: missing; give it on the command line as {key}=...")
    config = kind(**arguments)
    for problem in getattr(config, "check", list)():
        raise InputError(problem)
    return config


def _typed(value: Any, hint: Any, key: str) -> Any:
    """The value as its field's type; of all conversions, only those that lose nothing (8 -> 8.0, 32 -> "32")."""
    if isinstance(hint, types.UnionType):  # X | None
        return None if value is None else _typed(value, typing.get_args(hint)[0], key)
    if typing.get_origin(hint) is list and isinstance(value, list):
        return [_typed(item, typing.get_args(hint)[0], key) for item in value]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(min(max(value, -(2**1023)), 2**1023))  # a longer number is no double
    if hint is str and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, typing.get_origin(hint) or hint) or (hint is int and isinstance(value, bool)):
        names = {int: "a whole number", float: "a number", str: "text (in quotes)", bool: "true or false"}
        raise InputError(f"{key}: found {value!r}, expected {names.get(hint, 'a list, as in [a,b]')}")
    return value


def _checked(value: Any, limits: typing.Mapping[str, Any], key: str) -> Any:
    if value is None:
        return None
    if "options" in limits and value not in limits["options"]:
        raise InputError(f"{key}: unknown value {value!r}; expected one of {', '.join(limits['options'])}")
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, float) and not abs(number) < float("inf"):
            raise InputError(f"{key}: {number} is not a finite number")
        if "low" in limits and number < limits["low"]:
            raise InputError(f"{key}: {number} is out of range, expected at least {limits['low']}")
        if "high" in limits and number > limits["high"]:
            raise InputError(f"{key}: {number} is out of range, expected at most {limits['high']}")
        if "above" in limits and number <= limits["above"]:
            raise InputError(f"{key}: {number} is out of range, expected more than {limits['above']}")
        if "below" in limits and number >= limits["below"]:
            raise InputError(f"{key}: {number} is out of range, expected less than {limits['below']}")
    return value
