"""OpenAI's chat completions, as far as a GPT-2 tuned on single instructions can give them.

Reference: platform.openai.com/docs/api-reference/chat. A parameter that is not supported is refused
by name, unless it has the value that changes nothing.

Two parameters are added: `top_k`, and `input`, which is what the instruction is about, as in the
training records. Two defaults differ: `temperature` is 0, as in evaluation, and an answer ends at
the server's limit of tokens.
"""

import json
import secrets
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from sft.gpt2.sampling import Sampling

T = TypeVar("T")
Json = dict[str, Any]

SUPPORTED = {
    "model",
    "messages",
    "input",
    "stream",
    "stream_options",
    "stop",
    "seed",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_k",
    "top_p",
}

# Parameters about the caller. They are accepted, and nothing here reads them.
IGNORED = {"user", "metadata", "safety_identifier", "prompt_cache_key"}

# Parameters that are not supported, each with the one value that changes nothing.
NEUTRAL: Json = {
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

# The most stop strings of a request, and the most characters of each.
MAX_STOPS = 4
MAX_STOP_LENGTH = 256

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


@dataclass(frozen=True)
class ChatRequest:
    """The body of a request, checked.

    `instruction` is the text of the last message. `earlier` holds the messages before it, whose
    contents are not checked yet: see `earlier_turns`.
    """

    model: str
    instruction: str
    input: str
    sampling: Sampling
    seed: int
    max_tokens: int
    stop: list[str]
    stream: bool
    include_usage: bool
    earlier: list[Json]


def parse_request(body: bytes, limit: int) -> ChatRequest:
    """Read and check the body of a request.

    Args:
        limit: the most tokens that an answer may have, and their default number.

    Raises:
        ApiError: the body is not a request that can be answered, by parameter.
    """
    found = _json_object(body)
    for name, value in found.items():
        if name in SUPPORTED or name in IGNORED or value is None or value == NEUTRAL.get(name):
            continue
        problem = f"{_shown(value)} is not supported here; leave it out"
        refuse(name, problem, "unsupported_parameter")

    model = _typed(found, "model", str)
    if model is None:
        problem = "missing; GET /v1/models lists those there are"
        refuse("model", problem, "missing_required_parameter")
    seed = _typed(found, "seed", int)
    stream = _typed(found, "stream", bool) or False
    return ChatRequest(
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


def _json_object(body: bytes) -> Json:
    # Python reads NaN and Infinity, which are not JSON.
    def refuse_constant(text: str) -> NoReturn:
        raise ValueError(f"{text} is not valid JSON")

    try:
        found = json.loads(body, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}", None, "invalid_json") from error
    if not isinstance(found, dict):
        message = f"the body: expected a JSON object, found {_shown(found)}"
        raise ApiError(400, message, None, "invalid_type")
    return found


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _typed(found: Json, name: str, kind: type[T], where: str = "") -> T | None:
    """Return a value of the type `kind`; None: it is absent or null."""
    value = found.get(name)

    # A whole number may stand for a fraction. One too long for a double becomes its nearest.
    if kind is float and type(value) is int:
        value = float(min(max(value, -(2**1023)), 2**1023))

    # In Python, true is an int. So the type must be equal.
    if value is None or type(value) is kind:
        return value
    refuse(where + name, f"found {_shown(value)}, expected {TYPE_NAMES[kind]}", "invalid_type")


def _instruction(messages: Any) -> str:
    """Return the text of the last message, which is the user's; the roles of all are checked.

    The earlier texts are not: a model without a chat template of its own never sees them.
    """
    if messages is None:
        refuse("messages", "missing", "missing_required_parameter")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        refuse("messages", f"found {_shown(messages)}, expected a list of objects", "invalid_type")
    if not messages:
        refuse("messages", "empty; expected a message from the user")

    for index, message in enumerate(messages):
        param = f"messages[{index}].role"
        role = message.get("role")
        if role in ("system", "developer"):
            refuse(param, f"{role}: this model was tuned without; say it in the user's message")
        if role not in ("user", "assistant"):
            refuse(param, f"found {_shown(role)}, expected user or assistant")

    last = len(messages) - 1
    if messages[last]["role"] != "user":
        refuse(f"messages[{last}].role", "found assistant, expected the user to have the last word")
    return _text(messages[last].get("content"), f"messages[{last}].content")


def earlier_turns(request: ChatRequest) -> list[tuple[Any, str]]:
    """Return the roles and texts of the turns before the last.

    Raises:
        ApiError: one has no text.
    """
    turns = []
    for index, message in enumerate(request.earlier):
        text = _text(message.get("content"), f"messages[{index}].content")
        turns.append((message["role"], text))
    return turns


def _text(content: Any, param: str) -> str:
    """Return the text of a message, which is a string or a list of parts."""
    if isinstance(content, list):
        for index, part in enumerate(content):
            is_text = isinstance(part, dict) and part.get("type") == "text"
            if not is_text or not isinstance(part.get("text"), str):
                problem = f"found {_shown(part)}, expected a part of type text"
                refuse(f"{param}[{index}]", problem, "invalid_type")
        content = "\n".join(part["text"] for part in content)

    if not isinstance(content, str):
        refuse(param, f"found {_shown(content)}, expected text", "invalid_type")
    if not content:
        refuse(param, "empty; expected an instruction")
    return content


def _sampling(found: Json) -> Sampling:
    temperature = _typed(found, "temperature", float) or 0.0
    top_k = _typed(found, "top_k", int)
    top_p = _typed(found, "top_p", float)
    try:
        return Sampling(temperature, top_k, top_p)
    except ValueError as error:
        name, _, problem = str(error).partition(": ")
        refuse(name, problem)


def _max_tokens(found: Json, limit: int) -> int:
    # OpenAI renamed the parameter. The new name comes first.
    for name in ("max_completion_tokens", "max_tokens"):
        wanted = _typed(found, name, int)
        if wanted is None:
            continue
        if not 1 <= wanted <= limit:
            refuse(name, f"found {_shown(wanted)}, expected 1 to {limit}, this server's limit")
        return wanted
    return limit


def _stop(stop: Any) -> list[str]:
    if stop is None:
        return []
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
        refuse("stop", f"found {_shown(stop)}, expected text or a list of texts", "invalid_type")
    if len(stops) > MAX_STOPS or not all(0 < len(text) <= MAX_STOP_LENGTH for text in stops):
        refuse("stop", f"expected at most {MAX_STOPS} texts of 1 to {MAX_STOP_LENGTH} characters")
    return stops


def _include_usage(found: Json, stream: bool) -> bool:
    options = _typed(found, "stream_options", dict) or {}
    if options and not stream:
        refuse("stream_options", "only for stream=true")

    # Obfuscation is padding against eavesdroppers. It is accepted and left out.
    for name in options:
        if name not in ("include_usage", "include_obfuscation"):
            problem = "not supported here; leave it out"
            refuse(f"stream_options.{name}", problem, "unsupported_parameter")
    return _typed(options, "include_usage", bool, "stream_options.") or False
