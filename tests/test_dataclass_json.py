"""Dataclasses are read from the JSON that they were written as."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from sft.dataclass_json import flat, from_json, to_json


@dataclass
class Inner:
    count: int
    named: dict[str, float | None] = field(metadata=flat(("a", "b")))


@dataclass
class Outer:
    parts: list[Inner]
    by_name: dict[str, Inner]
    one: Inner | None
    rest: dict[str, Any] = field(metadata=flat())
    later: int = 7


CONTENT = {
    "parts": [{"count": 1, "a": 0.5, "b": None}],
    "by_name": {"x": {"count": 2, "a": 1.0, "b": 2.0}},
    "one": None,
    "kind": "k",
    "later": 3,
}


def test_nested_dataclasses_come_back_and_flat_fields_are_keys_of_the_object() -> None:
    found = from_json(Outer, CONTENT)
    assert found.parts == [Inner(1, {"a": 0.5, "b": None})]
    assert found.by_name["x"].named == {"a": 1.0, "b": 2.0}
    assert (found.rest, found.later) == ({"kind": "k"}, 3)
    assert to_json(found) == CONTENT


def test_an_absent_key_has_its_default_and_an_unknown_one_is_ignored() -> None:
    assert from_json(Inner, {"count": 1, "a": 2.0, "new": 3}) == Inner(1, {"a": 2.0, "b": None})
    content = {key: value for key, value in CONTENT.items() if key != "later"}
    assert from_json(Outer, content).later == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": [{"a": 1.0}]}, "count: missing"),
        ({"parts": {}}, "expected a list"),
        ({"by_name": None}, "expected a dict"),
        ({"one": 3}, "expected an object, found 3"),
    ],
)
def test_content_of_another_shape_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_json(Outer, CONTENT | changes)
