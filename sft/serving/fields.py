"""Reads the fields of a request's body, and says which one is wrong, in OpenAI's form."""

import json
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")
Json = dict[str, Any]

TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    dict: "an object",
}


class ApiError(Exception):
    """An error that is sent back in OpenAI's form.

    Args:
        param: the parameter at fault; None: the request as a whole, or the server.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None,
        code: str,
        kind: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.kind = kind

    def body(self) -> Json:
        error = {
            "message": str(self),
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}


def refuse(param: str, problem: str, code: str = "invalid_value") -> NoReturn:
    raise ApiError(400, f"{param}: {problem}", param, code)


def json_object(body: bytes) -> Json:
    # Python reads NaN and Infinity, which are not JSON.
    def refuse_constant(text: str) -> NoReturn:
        raise ValueError(f"{text} is not valid JSON")

    try:
        found = json.loads(body, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}", None, "invalid_json") from error
    if not isinstance(found, dict):
        message = f"the body: expected a JSON object, found {shown(found)}"
        raise ApiError(400, message, None, "invalid_type")
    return found


def shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def typed(found: Json, name: str, kind: type[T], where: str = "") -> T | None:
    """Return a value of the type `kind`; None: it is absent or null."""
    value = found.get(name)

    # A whole number may stand for a fraction. One too long for a double becomes its nearest.
    if kind is float and type(value) is int:
        value = float(min(max(value, -(2**1023)), 2**1023))

    # In Python, true is an int. So the type must be equal.
    if value is None or type(value) is kind:
        return value
    refuse(where + name, f"found {shown(value)}, expected {TYPE_NAMES[kind]}", "invalid_type")


def whole(found: Json, name: str, most: int, least: int = 0) -> int | None:
    """Return a whole number of a range; None: it is absent or null."""
    value = typed(found, name, int)
    if value is not None and not least <= value <= most:
        refuse(name, f"found {shown(value)}, expected {least} to {most}")
    return value
