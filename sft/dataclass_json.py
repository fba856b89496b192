"""Dataclasses as plain JSON, and back.

A field with the metadata `flat()` holds a dict whose items are written as keys of the object
itself. So a new metric is a new key in a file, and no new field of a class.
"""

from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def flat(keys: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the metadata of a field for a dict whose items are keys of the object itself.

    Args:
        keys: those to read, each None where it is missing; by default all that no field has.
    """
    return {"flat": True, "keys": keys}


def to_json(value: Any) -> Any:
    """Return a dataclass, or a list or dict of such, as plain values."""
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_json(item) for item in value)
    if not is_dataclass(value):
        return value

    plain: dict[str, Any] = {}
    for item in fields(value):
        inner = to_json(getattr(value, item.name))
        if item.metadata.get("flat"):
            plain |= inner
        else:
            plain[item.name] = inner
    return plain


def from_json(kind: type[T], content: Any) -> T:
    """Build a dataclass from its JSON. Unknown keys are ignored: a later version may write more.

    Raises:
        ValueError: a key is missing, or a value is of another kind.
    """
    if not isinstance(content, dict):
        raise ValueError(f"expected an object, found {content!r:.60}")
    types = _types(kind)  # type: ignore[arg-type]
    known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for item in fields(kind):  # type: ignore[arg-type]
        if item.metadata.get("flat"):
            keys = item.metadata["keys"] or [key for key in content if key not in known]
            found = {key: content.get(key) for key in keys}
        elif item.name in content:
            found = content[item.name]
        elif item.default is MISSING and item.default_factory is MISSING:
            raise ValueError(f"{item.name}: missing")
        else:
            continue
        values[item.name] = _value(types[item.name], found)
    return kind(**values)


@cache
def _types(kind: Any) -> dict[str, Any]:
    """Return the types of a dataclass's fields. They are kept, as a file has many records."""
    return get_type_hints(kind)


def _value(kind: Any, content: Any) -> Any:
    """Return a value of a field, with the dataclasses that its type names."""
    if is_dataclass(kind) and isinstance(kind, type):
        return from_json(kind, content)
    origin = get_origin(kind)
    arguments = get_args(kind)
    if origin in (Union, UnionType):
        others = [one for one in arguments if one is not type(None)]
        return content if content is None or len(others) > 1 else _value(others[0], content)
    if origin in (list, dict) and not isinstance(content, origin):
        raise ValueError(f"expected a {origin.__name__}, found {content!r:.60}")
    if origin is list:
        return [_value(arguments[0], item) for item in content]
    if origin is dict:
        return {key: _value(arguments[1], item) for key, item in content.items()}
    return content
