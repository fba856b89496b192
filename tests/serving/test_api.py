"""What a request may hold, and what is said of what it may not."""

import json

import pytest

from sft.gpt2.sampling import Sampling
from sft.serving.api import ApiError, Question, parse

ASKED = {"model": "tuned", "messages": [{"role": "user", "content": "Say hello."}]}


def read(changes: dict | None = None) -> Question:
    return parse(json.dumps(ASKED | (changes or {})).encode(), limit=100)


def refused(changes: dict) -> ApiError:
    with pytest.raises(ApiError) as error:
        read(changes)
    assert error.value.status == 400
    assert error.value.body()["error"] == {
        "message": str(error.value),
        "type": "invalid_request_error",
        "param": error.value.param,
        "code": error.value.code,
    }
    assert "\n" not in str(error.value)
    return error.value


def test_the_least_request():
    question = read()
    assert question == Question(
        "tuned", "Say hello.", "", Sampling(), question.seed, 100, [], False, False
    )
    assert read().seed != question.seed


def test_everything_at_once():
    question = read(
        {
            "temperature": 1,
            "top_p": 0.5,
            "top_k": 7,
            "seed": -1,
            "max_tokens": 5,
            "stop": "x",
            "input": "box",
        }
        | {
            "stream": True,
            "stream_options": {"include_usage": True},
            "user": "me",
            "n": 1,
            "presence_penalty": 0.0,
        }
        | {
            "logprobs": False,
            "tools": None,
            "response_format": {"type": "text"},
            "metadata": {"a": "b"},
        }
    )
    sampling = Sampling(1.0, 7, 0.5)
    assert question == Question(
        "tuned", "Say hello.", "box", sampling, 2**63 - 1, 5, ["x"], True, True
    )


def test_nulls_are_as_if_absent():
    names = (
        "temperature",
        "top_p",
        "top_k",
        "seed",
        "max_tokens",
        "stop",
        "stream",
        "stream_options",
        "input",
        "n",
    )
    assert read(dict.fromkeys(names) | {"seed": 1}) == read({"seed": 1})


def test_the_last_message_is_the_instruction():
    talk = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    assert read({"messages": talk}).instruction == "c"
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert read({"messages": [{"role": "user", "content": parts}]}).instruction == "one\ntwo"


def test_a_number_that_no_double_holds():
    assert read({"temperature": 10**400}).sampling.temperature == 2.0**1023


def test_max_completion_tokens_goes_before_max_tokens():
    assert read({"max_completion_tokens": 3, "max_tokens": 5}).max_tokens == 3


@pytest.mark.parametrize(
    ("changes", "param", "code", "message"),
    [
        ({"model": None}, "model", "missing_required_parameter", "model: missing"),
        ({"model": 3}, "model", "invalid_type", "model: found 3, expected text"),
        ({"temperature": "hot"}, "temperature", "invalid_type", 'found "hot", expected a number'),
        ({"temperature": True}, "temperature", "invalid_type", "found true"),
        (
            {"temperature": -0.1},
            "temperature",
            "invalid_value",
            "expected a number from 0 up, found -0.1",
        ),
        ({"temperature": 1e-9}, "temperature", "invalid_value", "too near to 0"),
        ({"top_p": 1.5}, "top_p", "invalid_value", "found 1.5"),
        ({"top_k": 0}, "top_k", "invalid_value", "found 0"),
        ({"top_k": 1.0}, "top_k", "invalid_type", "found 1.0, expected a whole number"),
        (
            {"max_tokens": 0},
            "max_tokens",
            "invalid_value",
            "found 0, expected 1 to 100, this server's limit",
        ),
        ({"max_tokens": 101}, "max_tokens", "invalid_value", "found 101"),
        ({"max_completion_tokens": 1e2}, "max_completion_tokens", "invalid_type", "found 100.0"),
        ({"seed": "1"}, "seed", "invalid_type", "expected a whole number"),
        ({"stream": 1}, "stream", "invalid_type", "found 1, expected true or false"),
        (
            {"stream_options": {"include_usage": True}},
            "stream_options",
            "invalid_value",
            "only for stream=true",
        ),
        (
            {"stream": True, "stream_options": []},
            "stream_options",
            "invalid_type",
            "expected an object",
        ),
        (
            {"stream": True, "stream_options": {"x": 1}},
            "stream_options.x",
            "unsupported_parameter",
            "leave it out",
        ),
        (
            {"stream": True, "stream_options": {"include_usage": 1}},
            *("stream_options.include_usage", "invalid_type", "found 1"),
        ),
        ({"stop": 3}, "stop", "invalid_type", "found 3"),
        ({"stop": ["a", 3]}, "stop", "invalid_type", "expected text or a list of texts"),
        ({"stop": [""]}, "stop", "invalid_value", "at most 4 texts of 1 to 256 characters"),
        ({"stop": ["a"] * 5}, "stop", "invalid_value", "at most 4"),
        ({"stop": "a" * 257}, "stop", "invalid_value", "256"),
        ({"n": 2}, "n", "unsupported_parameter", "n: 2 is not supported here; leave it out"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter", "true is not supported"),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter", "not supported"),
        (
            {"response_format": {"type": "json_object"}},
            "response_format",
            "unsupported_parameter",
            "not supported",
        ),
        (
            {"frequency_penalty": 0.1},
            "frequency_penalty",
            "unsupported_parameter",
            "0.1 is not supported",
        ),
        ({"temprature": 1}, "temprature", "unsupported_parameter", "1 is not supported"),
        ({"messages": None}, "messages", "missing_required_parameter", "messages: missing"),
        ({"messages": "hi"}, "messages", "invalid_type", "expected a list of objects"),
        ({"messages": ["hi"]}, "messages", "invalid_type", "expected a list of objects"),
        ({"messages": []}, "messages", "invalid_value", "empty"),
        (
            {"messages": [{"role": "system", "content": "x"}]},
            "messages[0].role",
            "invalid_value",
            "tuned without",
        ),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "messages[0].role",
            "invalid_value",
            'found "tool"',
        ),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "invalid_value", "found null"),
        (
            {"messages": [{"role": "assistant", "content": "x"}]},
            "messages[0].role",
            "invalid_value",
            "last word",
        ),
        (
            {"messages": [{"role": "user"}]},
            "messages[0].content",
            "invalid_type",
            "found null, expected text",
        ),
        (
            {"messages": [{"role": "user", "content": ""}]},
            "messages[0].content",
            "invalid_value",
            "empty",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            *("messages[0].content[0]", "invalid_type", "expected a part of type text"),
        ),
    ],
)
def test_refused(changes, param, code, message):
    error = refused(changes)
    assert (error.param, error.code) == (param, code)
    assert message in str(error)


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
def test_bodies_that_are_none(body, code):
    with pytest.raises(ApiError, match="the body") as error:
        parse(body, 100)
    assert (error.value.status, error.value.code, error.value.param) == (400, code, None)
