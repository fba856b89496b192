"""The body of a request: what is read from it, and how a wrong one is refused."""

import json
from typing import Any

import pytest

from sft.gpt2.sampling import Sampling
from sft.serving.api import ChatRequest, TextRequest, earlier_turns, parse_chat, parse_text
from sft.serving.fields import ApiError

SMALLEST = {"model": "tuned", "messages": [{"role": "user", "content": "Say hello."}]}


def parse(changes: dict[str, Any] | None = None) -> ChatRequest:
    return parse_chat(json.dumps(SMALLEST | (changes or {})).encode(), limit=100)


def refusal(changes: dict[str, Any]) -> ApiError:
    """Return the error of a request, whose body has OpenAI's form and one line."""
    with pytest.raises(ApiError) as error:
        parse(changes)
    assert error.value.status == 400
    assert error.value.body()["error"] == {
        "message": str(error.value),
        "type": "invalid_request_error",
        "param": error.value.param,
        "code": error.value.code,
    }
    assert "\n" not in str(error.value)
    return error.value


def test_the_smallest_request_gets_the_defaults():
    request = parse()
    assert request == ChatRequest(
        model="tuned",
        instruction="Say hello.",
        input="",
        sampling=Sampling(),
        seed=request.seed,
        n=1,
        max_tokens=100,
        stop=[],
        stream=False,
        include_usage=False,
        earlier=[],
    )


def test_a_request_without_a_seed_gets_a_new_one_each_time():
    assert parse().seed != parse().seed


def test_every_parameter_is_read():
    request = parse(
        {
            "temperature": 1,
            "top_p": 0.5,
            "top_k": 7,
            "min_p": 0.1,
            "repetition_penalty": 1.5,
            "frequency_penalty": 1,
            "presence_penalty": -2,
            "n": 3,
            "logprobs": True,
            "top_logprobs": 4,
            "seed": -1,
            "max_tokens": 5,
            "stop": "x",
            "input": "box",
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )
    assert request == ChatRequest(
        model="tuned",
        instruction="Say hello.",
        input="box",
        sampling=Sampling(1.0, 7, 0.5, 0.1, 1.5, None, 1.0, -2.0, logprobs=4),
        seed=2**63 - 1,
        n=3,
        max_tokens=5,
        stop=["x"],
        stream=True,
        include_usage=True,
        earlier=[],
    )


def test_parameters_that_change_nothing_are_accepted():
    neutral = {
        "user": "me",
        "metadata": {"a": "b"},
        "n": 1,
        "presence_penalty": 0.0,
        "logprobs": False,
        "tools": None,
        "tool_choice": "none",
        "parallel_tool_calls": True,
        "service_tier": "auto",
        "response_format": {"type": "text"},
    }
    assert parse({"seed": 1} | neutral) == parse({"seed": 1})


@pytest.mark.parametrize(
    "name",
    [
        "temperature",
        "top_p",
        "top_k",
        "max_tokens",
        "stop",
        "stream",
        "stream_options",
        "input",
        "n",
    ],
)
def test_null_means_the_default(name):
    assert parse({"seed": 1, name: None}) == parse({"seed": 1})


def test_the_last_message_is_the_instruction():
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    request = parse({"messages": messages})
    assert request.instruction == "c"
    assert earlier_turns(request, True) == [("user", "a"), ("assistant", "b")]


def test_an_earlier_message_without_text_is_refused_only_when_it_is_used():
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "c"},
    ]
    request = parse({"messages": messages})
    with pytest.raises(ApiError, match="null") as error:
        earlier_turns(request, True)
    assert (error.value.param, error.value.code) == ("messages[1].content", "invalid_type")


def test_an_answer_without_text_stays_in_the_conversation():
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "c"},
    ]
    request = parse({"messages": messages})
    assert earlier_turns(request, True) == [("user", "a"), ("assistant", "")]
    messages[0]["content"] = ""
    with pytest.raises(ApiError, match=r"^messages\[0\].content: empty"):
        earlier_turns(parse({"messages": messages}), True)


def test_parts_of_text_become_lines():
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert parse({"messages": [{"role": "user", "content": parts}]}).instruction == "one\ntwo"


def test_a_temperature_too_large_for_a_double_becomes_a_large_one():
    assert parse({"temperature": 10**400}).sampling.temperature == 2.0**1023


def test_an_answer_longer_than_the_limit_is_shortened():
    assert parse({"max_tokens": 101}).max_tokens == 100
    assert parse_text(b'{"model": "m", "prompt": "a", "max_tokens": 999}', 100).max_tokens == 100


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", ["a"]), ([1, 2], [[1, 2]]), (["a", "b"], ["a", "b"]), ([[1], [2, 3]], [[1], [2, 3]])],
)
def test_prompts_of_plain_text_have_four_forms(prompt, prompts):
    body = {"model": "base", "prompt": prompt, "echo": True, "max_tokens": 0, "logprobs": 2}
    request = parse_text(json.dumps(body).encode(), 100)
    assert request == TextRequest(
        model="base",
        sampling=Sampling(logprobs=2),
        seed=request.seed,
        n=1,
        max_tokens=0,
        stop=[],
        stream=False,
        include_usage=False,
        prompts=prompts,
        echo=True,
    )


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"prompt": None}, "prompt", "missing_required_parameter"),
        ({"prompt": []}, "prompt", "invalid_type"),
        ({"prompt": [1, "a"]}, "prompt", "invalid_type"),
        ({"prompt": [[]]}, "prompt", "invalid_type"),
        ({"prompt": [True]}, "prompt", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"messages": []}, "messages", "unsupported_parameter"),
        ({"best_of": 2}, "best_of", "unsupported_parameter"),
        ({"logprobs": True}, "logprobs", "invalid_type"),
    ],
)
def test_a_wrong_parameter_of_plain_text_is_refused(changes, param, code):
    body = {"model": "base", "prompt": "a"} | changes
    with pytest.raises(ApiError) as error:
        parse_text(json.dumps(body).encode(), 100)
    assert (error.value.param, error.value.code) == (param, code)


def test_max_completion_tokens_goes_before_max_tokens():
    assert parse({"max_completion_tokens": 3, "max_tokens": 5}).max_tokens == 3


@pytest.mark.parametrize(
    ("changes", "code", "found"),
    [
        ({"model": None}, "missing_required_parameter", "missing"),
        ({"model": 3}, "invalid_type", "3"),
        ({"temperature": "hot"}, "invalid_type", '"hot"'),
        ({"temperature": True}, "invalid_type", "true"),
        ({"temperature": -0.1}, "invalid_value", "-0.1"),
        ({"temperature": 1e-9}, "invalid_value", "too near to 0"),
        ({"top_p": 1.5}, "invalid_value", "1.5"),
        ({"top_k": 0}, "invalid_value", "0"),
        ({"top_k": 1.0}, "invalid_type", "1.0"),
        ({"max_tokens": 0}, "invalid_value", "found 0, expected 1"),
        ({"n": 0}, "invalid_value", "1 to 128"),
        ({"logprobs": 2}, "invalid_type", "2"),
        ({"top_logprobs": 2}, "invalid_value", "logprobs=true"),
        ({"frequency_penalty": 2.5}, "invalid_value", "2.5"),
        ({"tool_choice": "required"}, "unsupported_parameter", "required"),
        ({"max_completion_tokens": 1e2}, "invalid_type", "100.0"),
        ({"seed": "1"}, "invalid_type", '"1"'),
        ({"stream": 1}, "invalid_type", "1"),
        ({"stop": 3}, "invalid_type", "3"),
        ({"stop": ["a", 3]}, "invalid_type", "3"),
        ({"stop": [""]}, "invalid_value", "1 to 256"),
        ({"stop": ["a"] * 5}, "invalid_value", "at most 4"),
        ({"stop": "a" * 257}, "invalid_value", "256"),
        ({"tools": [{"type": "function"}]}, "unsupported_parameter", "function"),
        ({"response_format": {"type": "json_object"}}, "unsupported_parameter", "json_object"),
        ({"temprature": 1}, "unsupported_parameter", "1"),
        ({"messages": None}, "missing_required_parameter", "missing"),
        ({"messages": "hi"}, "invalid_type", '"hi"'),
        ({"messages": ["hi"]}, "invalid_type", '["hi"]'),
        ({"messages": []}, "invalid_value", "empty"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name_and_value(changes, code, found):
    error = refusal(changes)
    [param] = changes
    assert (error.param, error.code) == (param, code)
    assert str(error).startswith(f"{param}: ")
    assert found in str(error).removeprefix(f"{param}: ")


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": []}, "stream_options", "invalid_type"),
        (
            {"stream": True, "stream_options": {"x": 1}},
            "stream_options.x",
            "unsupported_parameter",
        ),
        (
            {"stream": True, "stream_options": {"include_usage": 1}},
            "stream_options.include_usage",
            "invalid_type",
        ),
    ],
)
def test_wrong_stream_options_are_refused(changes, param, code):
    error = refusal(changes)
    assert (error.param, error.code) == (param, code)


@pytest.mark.parametrize(
    ("message", "param", "code", "found"),
    [
        ({"role": "system", "content": "x"}, "role", "invalid_value", "system"),
        ({"role": "tool", "content": "x"}, "role", "invalid_value", '"tool"'),
        ({"content": "x"}, "role", "invalid_value", "null"),
        ({"role": "assistant", "content": "x"}, "role", "invalid_value", "assistant"),
        ({"role": "user"}, "content", "invalid_type", "null"),
        ({"role": "user", "content": ""}, "content", "invalid_value", "empty"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
            "content[0]",
            "invalid_type",
            "image_url",
        ),
    ],
)
def test_a_wrong_message_is_refused_by_its_part(message, param, code, found):
    error = refusal({"messages": [message]})
    assert (error.param, error.code) == (f"messages[0].{param}", code)
    assert found in str(error)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b'{"temperature": NaN}', "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "invalid_json"),
        (b"[]", "invalid_type"),
        (b"null", "invalid_type"),
    ],
)
def test_a_body_that_is_not_a_json_object_is_refused(body, code):
    with pytest.raises(ApiError) as error:
        parse_chat(body, 100)
    assert (error.value.status, error.value.code, error.value.param) == (400, code, None)
