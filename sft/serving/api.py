"""OpenAI's completions, of a chat and of plain text, as far as a tuned GPT-2 can give them.

Reference: platform.openai.com/docs/api-reference, "Chat" and "Completions". A parameter that is not
supported is refused by name, unless it has a value that changes nothing.

Some parameters are added: `top_k`, `min_p` and `repetition_penalty`; and for a chat `input`, which
is what the instruction is about, as in the training records. Two defaults differ: `temperature` is
0, as in evaluation, and the answer of a chat ends at the server's limit of tokens.
"""

import secrets
from dataclasses import dataclass
from typing import Any

from sft.data.records import Role
from sft.gpt2.sampling import Sampling
from sft.serving.fields import Json, json_object, refuse, shown, typed, whole

# Both kinds of request have these.
SUPPORTED = {
    "model",
    "stream",
    "stream_options",
    "stop",
    "seed",
    "n",
    "max_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "logprobs",
}
OF_CHAT = SUPPORTED | {"messages", "input", "max_completion_tokens", "top_logprobs"}
OF_TEXT = SUPPORTED | {"prompt", "echo"}

# Parameters about the caller. They are accepted, and nothing here reads them.
IGNORED = {"user", "metadata", "safety_identifier", "prompt_cache_key"}

# Parameters that are not supported, each with the values that change nothing.
NEUTRAL: dict[str, list[Any]] = {
    "best_of": [1],
    "function_call": ["none", "auto"],
    "functions": [[]],
    "logit_bias": [{}],
    "modalities": [["text"]],
    "parallel_tool_calls": [False, True],
    "response_format": [{"type": "text"}],
    "service_tier": ["auto", "default"],
    "store": [False],
    "suffix": [""],
    "tool_choice": ["none", "auto"],
    "tools": [[]],
}

# The most stop strings of a request, and the most characters of each.
MAX_STOPS = 4
MAX_STOP_LENGTH = 256

# The most answers to one prompt, and the most likeliest tokens that are returned for each place.
MAX_CHOICES = 128
MAX_LOGPROBS = 20

# As OpenAI's, if a request for plain text does not say how long it may be.
TEXT_TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class Request:
    """The settings of answers that both kinds of request have, checked.

    Attributes:
        n: answers to each prompt.
    """

    model: str
    sampling: Sampling
    seed: int
    n: int
    max_tokens: int
    stop: list[str]
    stream: bool
    include_usage: bool


@dataclass(frozen=True, kw_only=True)
class ChatRequest(Request):
    """A request for the next turn of a chat.

    `instruction` is the text of the last message. `earlier` holds the messages before it, whose
    contents are not checked yet: see `earlier_turns`.
    """

    instruction: str
    input: str
    earlier: list[Json]


@dataclass(frozen=True, kw_only=True)
class TextRequest(Request):
    """A request for the continuation of plain texts, or of token ids.

    Attributes:
        echo: each answer begins with its prompt.
    """

    prompts: list[str | list[int]]
    echo: bool


def parse_chat(body: bytes, limit: int) -> ChatRequest:
    """Read and check the body of a chat's request.

    Args:
        limit: the most tokens that an answer may have, and their default number.

    Raises:
        ApiError: the body cannot be answered; it names the parameter at fault.
    """
    found = json_object(body)
    _check_names(found, OF_CHAT)

    # OpenAI renamed the parameter. The new name comes first.
    wanted = whole(found, "max_completion_tokens", 2**63, least=1)
    if wanted is None:
        wanted = whole(found, "max_tokens", 2**63, least=1)

    logprobs = typed(found, "logprobs", bool) or False
    top_logprobs = whole(found, "top_logprobs", MAX_LOGPROBS)
    if top_logprobs is not None and not logprobs:
        refuse("top_logprobs", "only for logprobs=true")
    return ChatRequest(
        **_common(found, (top_logprobs or 0) if logprobs else None),
        max_tokens=limit if wanted is None else min(wanted, limit),
        instruction=_instruction(found.get("messages")),
        input=typed(found, "input", str) or "",
        earlier=found["messages"][:-1],
    )


def parse_text(body: bytes, limit: int) -> TextRequest:
    """Read and check the body of a request for plain text; otherwise as `parse_chat`."""
    found = json_object(body)
    _check_names(found, OF_TEXT)
    echo = typed(found, "echo", bool) or False

    # With `echo`, a caller who wants no more tokens asks for what the model thinks of the prompt.
    wanted = whole(found, "max_tokens", 2**63, least=0 if echo else 1)
    return TextRequest(
        **_common(found, whole(found, "logprobs", MAX_LOGPROBS)),
        max_tokens=min(TEXT_TOKENS if wanted is None else wanted, limit),
        prompts=_prompts(found.get("prompt")),
        echo=echo,
    )


def _check_names(found: Json, supported: set[str]) -> None:
    for name, value in found.items():
        neutral = value is None or value in NEUTRAL.get(name, [])
        if name not in supported | IGNORED and not neutral:
            problem = f"{shown(value)} is not supported here; leave it out"
            refuse(name, problem, "unsupported_parameter")


def _common(found: Json, logprobs: int | None) -> dict[str, Any]:
    model = typed(found, "model", str)
    if model is None:
        problem = "missing; GET /v1/models lists those there are"
        refuse("model", problem, "missing_required_parameter")
    seed = typed(found, "seed", int)
    stream = typed(found, "stream", bool) or False
    n = whole(found, "n", MAX_CHOICES, least=1)
    return {
        "model": model,
        "sampling": _sampling(found, logprobs),
        "seed": secrets.randbits(63) if seed is None else seed % 2**63,
        "n": n or 1,
        "stop": _stop(found.get("stop")),
        "stream": stream,
        "include_usage": _include_usage(found, stream),
    }


def _instruction(messages: Any) -> str:
    """Return the text of the last message, which is the user's.

    The roles of all messages are checked, but not the earlier texts: see `earlier_turns`.
    """
    if messages is None:
        refuse("messages", "missing", "missing_required_parameter")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        refuse("messages", f"found {shown(messages)}, expected a list of objects", "invalid_type")
    if not messages:
        refuse("messages", "empty; expected a message from the user")

    for index, message in enumerate(messages):
        role = message.get("role")
        if role not in ("system", "developer", "user", "assistant"):
            problem = f"found {shown(role)}, expected system, user or assistant"
            refuse(f"messages[{index}].role", problem)

    last = len(messages) - 1
    if (role := messages[last]["role"]) != "user":
        problem = f"found {role}, expected the user to have the last word"
        refuse(f"messages[{last}].role", problem)
    return _text(messages[last].get("content"), f"messages[{last}].content")


def earlier_turns(request: ChatRequest, conversations: bool) -> list[tuple[Role, str]]:
    """Return the roles and texts of the turns before the last, as the model is shown them.

    Args:
        conversations: the model was tuned on such. Another one is shown no earlier turns.

    Raises:
        ApiError: a turn has no text, or there is a system message that the model cannot be shown.
    """
    turns: list[tuple[Role, str]] = []
    for index, message in enumerate(request.earlier):
        param = f"messages[{index}].content"
        if message["role"] in ("system", "developer"):
            # Clients send an empty one where their user gave none.
            if message.get("content") in (None, "", []):
                continue
            if not conversations:
                problem = (
                    "this model was tuned on single instructions, without system messages; say it "
                    "in the user's message"
                )
                refuse(f"messages[{index}].role", problem)
            if turns:
                refuse(f"messages[{index}].role", "system: expected as the first message alone")
            turns.append(("system", _text(message["content"], param)))
        elif conversations:
            content = message.get("content")
            # The model may have answered nothing.
            answered_nothing = message["role"] == "assistant" and content == ""
            turns.append((message["role"], "" if answered_nothing else _text(content, param)))
    return turns


def _text(content: Any, param: str) -> str:
    """Return the text of a message, which is a string or a list of parts."""
    if isinstance(content, list):
        for index, part in enumerate(content):
            is_text = isinstance(part, dict) and part.get("type") == "text"
            if not is_text or not isinstance(part.get("text"), str):
                problem = f"found {shown(part)}, expected a part of type text"
                refuse(f"{param}[{index}]", problem, "invalid_type")
        content = "\n".join(part["text"] for part in content)

    if not isinstance(content, str):
        refuse(param, f"found {shown(content)}, expected text", "invalid_type")
    if not content:
        refuse(param, "empty; expected an instruction")
    return content


def _prompts(prompt: Any) -> list[str | list[int]]:
    """Return the prompts: a text, token ids, or a list of several of either."""
    if prompt is None:
        refuse("prompt", "missing", "missing_required_parameter")
    if isinstance(prompt, str) or _are_ids(prompt):
        return [prompt]
    texts_or_ids = isinstance(prompt, list) and all(
        isinstance(one, str) or _are_ids(one) for one in prompt
    )
    if not texts_or_ids or not prompt:
        problem = f"found {shown(prompt)}, expected text, a list of token ids, or a list of these"
        refuse("prompt", problem, "invalid_type")
    return list(prompt)


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(id) is int for id in value)


def _sampling(found: Json, logprobs: int | None) -> Sampling:
    penalty = typed(found, "repetition_penalty", float)
    try:
        return Sampling(
            temperature=typed(found, "temperature", float) or 0.0,
            top_k=typed(found, "top_k", int),
            top_p=typed(found, "top_p", float),
            min_p=typed(found, "min_p", float),
            repetition_penalty=1.0 if penalty is None else penalty,
            frequency_penalty=typed(found, "frequency_penalty", float) or 0.0,
            presence_penalty=typed(found, "presence_penalty", float) or 0.0,
            logprobs=logprobs,
        )
    except ValueError as error:
        name, _, problem = str(error).partition(": ")
        refuse(name, problem)


def _stop(stop: Any) -> list[str]:
    if stop is None:
        return []
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
        refuse("stop", f"found {shown(stop)}, expected text or a list of texts", "invalid_type")
    if len(stops) > MAX_STOPS or not all(0 < len(text) <= MAX_STOP_LENGTH for text in stops):
        refuse("stop", f"expected at most {MAX_STOPS} texts of 1 to {MAX_STOP_LENGTH} characters")
    return stops


def _include_usage(found: Json, stream: bool) -> bool:
    options = typed(found, "stream_options", dict) or {}
    if options and not stream:
        refuse("stream_options", "only for stream=true")

    # Obfuscation is padding against eavesdroppers. It is accepted and left out.
    for name in options:
        if name not in ("include_usage", "include_obfuscation"):
            problem = "not supported here; leave it out"
            refuse(f"stream_options.{name}", problem, "unsupported_parameter")
    return typed(options, "include_usage", bool, "stream_options.") or False
