"""The one way from Hydra's config, or from a saved one, into the dataclasses of `schema.py`.

A value that does not fit its field is refused by its key. The types and ranges come from the
annotations of the field, the rules between fields from `rules.py`.
"""

import math
import types
import typing
from collections.abc import Collection
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Le, Lt

from sft.config.rules import check
from sft.config.schema import EvaluateConfig, OneOf, TrainConfig
from sft.errors import InputError

T = TypeVar("T")

NAMES = {int: "a whole number", float: "a number", str: "text (in quotes)", bool: "true or false"}


def from_hydra(kind: type[T], composed: Any) -> T:
    """Return the dataclass of `kind` that a composed DictConfig describes.

    Raises:
        InputError: a key is missing or unknown, or a value has the wrong type, is out of its range
            or breaks a rule. The message begins with the key.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        if missing := sorted(OmegaConf.missing_keys(composed)):
            raise _missing(missing[0])
        values: Any = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        raise InputError(f"{key or 'config'}: {str(error).splitlines()[0]}") from error
    return from_dict(kind, values)


def from_dict(kind: type[T], values: dict[str, Any], where: str = "") -> T:
    """Return the dataclass of `kind` that plain values describe; errors are as in `from_hydra`.

    Args:
        where: the prefix of the keys in messages, such as `optim.`.
    """
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    if unknown := [key for key in values if key not in known]:
        raise InputError(f"{where}{unknown[0]}: unknown key; known here: {', '.join(known)}")

    hints = typing.get_type_hints(kind, include_extras=True)
    arguments: dict[str, Any] = {}
    for name, item in known.items():
        key = where + name
        if name in values:
            arguments[name] = _converted(values[name], hints[name], key)
        elif item.default is MISSING and item.default_factory is MISSING:
            raise _missing(key)

    config = kind(**arguments)
    check(config)
    return config


def _missing(key: str) -> InputError:
    return InputError(f"{key}: missing; give it on the command line as {key}=...")


def _converted(value: Any, hint: Any, key: str) -> Any:
    """Convert the value to its field's type. Only conversions that lose nothing are made."""
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)

    if is_dataclass(hint):
        if not isinstance(value, dict):
            raise InputError(f"{key}: found {value!r}, expected a group of keys")
        return from_dict(typing.cast(type[Any], hint), value, key + ".")

    # X | None, X | list[X] | None, or X | Literal["auto"]. With an Annotated inside, Python makes
    # it a typing.Union.
    if origin in (types.UnionType, typing.Union):
        literals = [option for option in arguments if typing.get_origin(option) is Literal]
        words = [word for option in literals for word in typing.get_args(option)]
        if value in words:
            return value
        if words and isinstance(value, str):
            raise InputError(f"{key}: found {value!r}, expected a number, or {' or '.join(words)}")
        lists = [option for option in arguments if typing.get_origin(option) is list]
        option = lists[0] if lists and isinstance(value, list) else arguments[0]
        return None if value is None else _converted(value, option, key)

    if origin is Annotated:
        found = _converted(value, arguments[0], key)
        for limit in arguments[1:]:
            _check_limit(found, limit, key)
        return found

    if origin is Literal:
        text = "null" if value is None else _converted(value, str, key)
        _check_option(text, arguments, key)
        return text

    if origin is dict and isinstance(value, dict):
        return {str(name): _converted(item, arguments[1], key) for name, item in value.items()}

    if origin is list and isinstance(value, list):
        return [_converted(item, arguments[0], key) for item in value]

    # YAML reads `lr=1` and `precision=32` as whole numbers, and true is an int to Python.
    if isinstance(value, int) and not isinstance(value, bool):
        if hint is float:
            # A larger whole number may be too large for a double.
            largest = 2**1023
            return float(min(max(value, -largest), largest))
        if hint is str:
            return str(value)
    misfit = hint is int and isinstance(value, bool)
    if misfit or not isinstance(value, origin or hint):
        found_kind = "keys and values, as in {a: b}" if origin is dict else "a list, as in [a,b]"
        expected = NAMES.get(hint, found_kind)
        raise InputError(f"{key}: found {value!r}, expected {expected}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{key}: {value} is not a finite number")
    return value


def _check_limit(value: Any, limit: Any, key: str) -> None:
    """Raise InputError if a value breaks one annotation of its field."""
    expected = None
    match limit:
        case OneOf(options):
            _check_option(value, options, key)
        case Ge(low) if value < low:
            expected = f"at least {low}"
        case Gt(low) if value <= low:
            expected = f"more than {low}"
        case Le(high) if value > high:
            expected = f"at most {high}"
        case Lt(high) if value >= high:
            expected = f"less than {high}"
    if expected:
        raise InputError(f"{key}: {value} is out of range, expected {expected}")


def _check_option(value: str, options: Collection[str], key: str) -> None:
    if value not in options:
        raise InputError(f"{key}: unknown value {value!r}; expected one of {', '.join(options)}")


def flat(values: dict[str, Any], where: str = "") -> dict[str, Any]:
    """Return nested values by their dotted keys: {"optim": {"lr": 1}} -> {"optim.lr": 1}.

    A dict that is itself the value of a key, such as `data.fields`, stays whole.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and not where:
            found |= flat(value, f"{where}{name}.")
        else:
            found[where + name] = value
    return found


def keys_of(kind: type, where: str = "") -> list[str]:
    """Return the dotted keys of a config's dataclass, with the keys of its groups."""
    found = []
    for name, hint in typing.get_type_hints(kind).items():
        if isinstance(hint, type) and is_dataclass(hint):
            found += keys_of(hint, f"{where}{name}.")
        else:
            found.append(where + name)
    return found


def likely_key(key: str) -> str | None:
    """Return the key of either door that a misspelt one most likely stands for, if any."""
    known = [*keys_of(TrainConfig), *keys_of(EvaluateConfig)]
    for name in known:
        if name.rpartition(".")[2] == key:
            return name
    return next(iter(get_close_matches(key, known, n=1, cutoff=0.75)), None)
