"""OpenAI's chat completions, as far as a GPT-2 tuned on single instructions can give them.

Reference: platform.openai.com/docs/api-reference/chat. What is not supported is refused by its name, unless it is sent
with the value that changes nothing. Beyond that API a request may hold `input` (what the instruction is about, as in
the training records) and `top_k`. Other defaults than there: `temperature` is 0, as in evaluation, and an answer ends
after the server's limit of tokens.
"""

import json
import secrets
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from sft.gpt2.sampling import Sampling

T = TypeVar("T")
Json = dict[str, Any]

KNOWN = {
    *("model", "messages", "input", "stream", "stream_options", "stop", "seed"),
    *("max_tokens", "max_completion_tokens", "temperature", "top_k", "top_p"),
}
ABOUT_THE_CALLER = {
    "user",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
}  # read by nobody here
CHANGES_NOTHING: Json = {
    "n": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logprobs": False,
    "logit_bias": {},
    "response_format": {"type": "text"},
    "modalities": ["text"],
    "store": False,
    "tools": [],
    "parallel_tool_calls": False,
}
STOPS, STOP_LENGTH = 4, 256


class ApiError(Exception):
    """An answer in OpenAI's form that says what was wrong.

    Args:
        param: the part of the request that was; None: all of it, or none.
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
        self.status, self.param, self.code, self.kind = status, param, code, kind

    def body(self) -> Json:
        return {
            "error": {
                "message": str(self),
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }


def refuse(param: str, problem: str, code: str = "invalid_value") -> NoReturn:
    raise ApiError(400, f"{param}: {problem}", param, code)


@dataclass(frozen=True)
class Question:
    """What a caller wants, checked."""

    model: str
    instruction: str
    input: str
    sampling: Sampling
    seed: int
    max_tokens: int
    stop: list[str]
    stream: bool
    include_usage: bool
    earlier: list[Json] = field(
        default_factory=list
    )  # messages before the instruction, with texts not yet checked


def parse(body: bytes, limit: int) -> Question:
    """Read the body of a request.

    Args:
        limit: the most tokens that an answer may have; the default too.

    Raises:
        ApiError: it is not as it should be, by parameter.
    """
    found = _object(body)
    for name, value in found.items():
        if (
            name not in KNOWN | ABOUT_THE_CALLER
            and value is not None
            and value != CHANGES_NOTHING.get(name)
        ):
            refuse(
                name,
                f"{_shown(value)} is not supported here; leave it out",
                "unsupported_parameter",
            )
    model = _typed(found, "model", str)
    if model is None:
        refuse(
            "model", "missing; GET /v1/models lists those there are", "missing_required_parameter"
        )
    seed, stream = _typed(found, "seed", int), _typed(found, "stream", bool) or False
    return Question(
        model=model,
        instruction=_instruction(found.get("messages")),
        input=_typed(found, "input", str) or "",
        sampling=_sampling(found),
        seed=secrets.randbits(63) if seed is None else seed % 2**63,
        max_tokens=_max_tokens(found, limit),
        stop=_stop(found.get("stop")),
        stream=stream,
        include_usage=_include_usage(found, stream),
        earlier=found["messages"][:-1],
    )


def _object(body: bytes) -> Json:
    def no_number(text: str) -> NoReturn:
        raise ValueError(f"{text} is no number in JSON")

    try:
        found = json.loads(body, parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}", None, "invalid_json") from error
    if not isinstance(found, dict):
        raise ApiError(
            400, f"the body: expected a JSON object, found {_shown(found)}", None, "invalid_type"
        )
    return found


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _typed(found: Json, name: str, kind: type[T], where: str = "") -> T | None:
    """A value of that type; None: there is none."""
    value = found.get(name)
    if kind is float and type(value) is int:
        value = float(min(max(value, -(2**1023)), 2**1023))  # a longer number is no double
    if value is None or type(value) is kind:
        return value
    words = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        dict: "an object",
    }
    refuse(where + name, f"found {_shown(value)}, expected {words[kind]}", "invalid_type")


def _instruction(messages: Any) -> str:
    """The last message. Earlier turns are for models with a chat template of their own; others have only seen one."""
    if messages is None:
        refuse("messages", "missing", "missing_required_parameter")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        refuse("messages", f"found {_shown(messages)}, expected a list of objects", "invalid_type")
    if not messages:
        refuse("messages", "empty; expected a message from the user")
    for index, message in enumerate(messages):
        role = message.get("role")
        if role in ("system", "developer"):
            refuse(
                f"messages[{index}].role",
                f"{role}: this model was tuned without; say it in the user's message",
            )
        if role not in ("user", "assistant"):
            refuse(f"messages[{index}].role", f"found {_shown(role)}, expected user or assistant")
    last = len(messages) - 1
    if messages[last]["role"] != "user":
        refuse(f"messages[{last}].role", "found assistant, expected the user to have the last word")
    return _text(messages[last].get("content"), f"messages[{last}].content")


def earlier_turns(question: Question) -> list[tuple[str, str]]:
    """Return the roles and texts of the turns before the last; raises ApiError if one has no text."""
    return [
        (message["role"], _text(message.get("content"), f"messages[{index}].content"))
        for index, message in enumerate(question.earlier)
    ]


def _text(content: Any, param: str) -> str:
    """The text of a message: a string, or parts."""
    if isinstance(content, list):
        for index, part in enumerate(content):
            if (
                not isinstance(part, dict)
                or part.get("type") != "text"
                or not isinstance(part.get("text"), str)
            ):
                refuse(
                    f"{param}[{index}]",
                    f"found {_shown(part)}, expected a part of type text",
                    "invalid_type",
                )
        content = "\n".join(part["text"] for part in content)
    if not isinstance(content, str):
        refuse(param, f"found {_shown(content)}, expected text", "invalid_type")
    if not content:
        refuse(param, "empty; expected an instruction")
    return content


def _sampling(found: Json) -> Sampling:
    temperature = _typed(found, "temperature", float) or 0.0
    try:
        return Sampling(temperature, _typed(found, "top_k", int), _typed(found, "top_p", float))
    except ValueError as error:
        name, _, problem = str(error).partition(": ")
        refuse(name, problem)


def _max_tokens(found: Json, limit: int) -> int:
    for name in ("max_completion_tokens", "max_tokens"):
        wanted = _typed(found, name, int)
        if wanted is not None:
            if not 1 <= wanted <= limit:
                refuse(name, f"found {_shown(wanted)}, expected 1 to {limit}, this server's limit")
            return wanted
    return limit


def _stop(stop: Any) -> list[str]:
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
        refuse("stop", f"found {_shown(stop)}, expected text or a list of texts", "invalid_type")
    if len(stops) > STOPS or not all(0 < len(text) <= STOP_LENGTH for text in stops):
        refuse("stop", f"expected at most {STOPS} texts of 1 to {STOP_LENGTH} characters")
    return stops


def _include_usage(found: Json, stream: bool) -> bool:
    options = _typed(found, "stream_options", dict) or {}
    if options and not stream:
        refuse("stream_options", "only for stream=true")
    if unknown := [
        name for name in options if name not in ("include_usage", "include_obfuscation")
    ]:
        refuse(
            f"stream_options.{unknown[0]}",
            "not supported here; leave it out",
            "unsupported_parameter",
        )
    return _typed(options, "include_usage", bool, "stream_options.") or False
