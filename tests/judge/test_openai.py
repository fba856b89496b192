"""The judge on a server of OpenAI's kind: its requests, its forms of JSON, and its hidden key."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from sft.errors import InputError
from sft.judge.ask import score_answers
from sft.judge.prompts import SCORE, Question
from tests.judge.judge_server import Site, form_of, met, refused, serving

KEY = "sk-proj-0123456789abcdef"
QUESTIONS = [
    Question(n, "tuned", "Name the capital.", "France", "Paris.", "It is Paris" + "." * n)
    for n in range(3)
]


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def test_the_summary_names_the_judge(openai: Site) -> None:
    assert met(openai).identity == {
        "kind": "openai",
        "model": "mine",
        "url": openai.url,
        "prompt": "strict",
        "mode": "score",
        "options": {"seed": 123, "temperature": 0},
        "max_tokens": 512,
    }


def test_the_body_of_a_request_without_a_key(openai: Site, tmp_path: Path) -> None:
    [one] = score_answers(met(openai), QUESTIONS[:1], tmp_path / "scores.jsonl")
    [body] = openai.chats
    assert [message["role"] for message in body.pop("messages")] == ["system", "user"]
    schema = {"name": "verdict", "strict": True, "schema": SCORE}
    form = {"type": "json_schema", "json_schema": schema}
    choices = {"stream": False, "seed": 123, "temperature": 0, "max_tokens": 512}
    assert body == {"model": "mine", "response_format": form} | choices
    assert [(method, path) for method, path, _ in openai.requests] == [
        ("GET", "/v1/models"),
        ("POST", "/v1/chat/completions"),
    ]
    assert not any("Authorization" in headers for _, _, headers in openai.requests)
    assert one.status == "scored"
    assert one.prompt_tokens is not None
    assert one.prompt_tokens > 100


def test_a_password_in_netrc_is_not_sent(
    openai: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    # For a local address, requests does not read the file anyway.
    monkeypatch.setattr("sft.judge.client.is_local", lambda url: False)
    monkeypatch.setenv("NO_PROXY", "*")
    met(openai)
    assert not any("Authorization" in headers for _, _, headers in openai.requests)


def test_no_proxy_is_asked_for_this_machine(openai: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    met(openai)
    met(openai, url=openai.url.replace("127.0.0.1", "localhost"))


def test_the_key_is_sent_as_a_bearer_token(
    openai: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openai.key = KEY
    assert refused(openai).endswith("; put the right key into OPENAI_API_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another-one")
    assert "HTTP 401: wrong key: Bearer (key); put the right key into OPENAI_API_KEY" in refused(
        openai
    )
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    judged = score_answers(met(openai), QUESTIONS, tmp_path / "scores.jsonl")
    assert {one.status for one in judged} == {"scored"}


def test_the_key_is_nowhere_to_be_seen(
    openai: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pauses: list[float],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Not even where the server repeats it: in a reason, in no reply at all, in an error."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    judge = met(openai)
    openai.judge = lambda messages: json.dumps({"reason": f"your key is {KEY}", "score": 5})
    judged = score_answers(judge, QUESTIONS[:1], tmp_path / "scores.jsonl")
    openai.judge = lambda messages: f"Bearer {KEY}"
    judged += score_answers(judge, QUESTIONS[1:2], tmp_path / "scores.jsonl")
    openai.key = "another"
    with pytest.raises(InputError) as error:
        score_answers(judge, QUESTIONS, tmp_path / "scores.jsonl")

    seen = [
        str(error.value),
        caplog.text,
        *capfd.readouterr(),
        json.dumps(judge.identity),
        repr(judged),
        repr(judge),
    ]
    seen += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(KEY in text for text in seen)
    assert [one.reason for one in judged] == ["your key is (key)", "Bearer (key)"]
    assert all(headers["Authorization"] == f"Bearer {KEY}" for _, _, headers in openai.requests)


@pytest.mark.parametrize("key", ["sk-1\n23456789", "sk 123456789", "schlüssel", "sk-\x00123456"])
def test_a_key_with_characters_of_no_key_is_refused_unseen(
    key: str, openai: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.environ", {"OPENAI_API_KEY": key})
    line = refused(openai)
    assert line.startswith("OPENAI_API_KEY: ")
    assert key not in line


def test_a_missing_server_is_named_without_a_pause(
    openai: Site, ollama: Site, pauses: list[float]
) -> None:
    line = refused(openai, url="http://127.0.0.1:9/v1")
    assert line.startswith(
        "judge.url: no server at http://127.0.0.1:9/v1 (cannot reach 127.0.0.1:9: refused)"
    )
    assert line.endswith("start it, or give the address of another, up to /v1, as judge.url")
    assert pauses == []


def test_a_server_that_does_not_list_its_models(
    openai: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for code in (404, 405, 501):
        monkeypatch.setattr(
            "tests.judge.judge_server.Handler.listed",
            lambda handler, code=code: handler.send(code, b""),
        )
        assert met(openai).identity["model"] == "mine"


def test_an_address_without_v1_is_asked_about(openai: Site, tmp_path: Path) -> None:
    judge = met(openai, url=openai.url.removesuffix("/v1"))
    with pytest.raises(
        InputError,
        match=r"HTTP 404: .*judge\.url",
    ):
        score_answers(judge, QUESTIONS, tmp_path / "scores.jsonl")


@pytest.mark.parametrize("code", [400, 422, 500, 501])
@pytest.mark.parametrize("form", ["json_object", "none"])
def test_a_server_is_asked_in_the_next_form_that_it_takes(
    code: int, form: str, openai: Site, tmp_path: Path, pauses: list[float]
) -> None:
    openai.forms, openai.refusal = (form, "none"), (code, "Unknown parameter: 'response_format'.")
    judge = met(openai, concurrency=1)
    judged = score_answers(judge, QUESTIONS, tmp_path / "scores.jsonl")
    assert [(one.status, one.form) for one in judged] == [("scored", form)] * 3
    assert judge.forms == {form: 3}
    assert pauses == []
    asked = [form_of(body) for body in openai.chats]
    assert asked == ["json_schema", *["json_object"] * (form == "none"), *[form] * 3]
    if form == "json_object":
        assert openai.chats[-1]["response_format"] == {"type": "json_object", "schema": SCORE}

    # The next command finds what is kept, and asks nothing.
    again = met(openai)
    assert score_answers(again, QUESTIONS, tmp_path / "scores.jsonl") == judged
    assert again.forms == {form: 3}
    assert len(openai.chats) == len(asked)


def test_a_router_that_finds_nobody_who_takes_the_form(openai: Site, tmp_path: Path) -> None:
    openai.forms = ("none",)
    openai.refusal = (404, "No endpoints found that can handle the requested parameters.")
    [one] = score_answers(met(openai), QUESTIONS[:1], tmp_path / "scores.jsonl")
    assert (one.status, one.form) == ("scored", "none")


def test_threads_that_are_refused_at_once_take_one_step(openai: Site, tmp_path: Path) -> None:
    openai.forms, openai.delay = ("json_object", "none"), 0.05
    judged = score_answers(met(openai, concurrency=3), QUESTIONS, tmp_path / "scores.jsonl")
    assert {one.form for one in judged} == {"json_object"}


def test_without_a_schema_no_form_is_asked_for(openai: Site, tmp_path: Path) -> None:
    openai.forms = ("none",)
    judged = score_answers(met(openai, schema=False), QUESTIONS, tmp_path / "scores.jsonl")
    assert [(one.status, one.form) for one in judged] == [("scored", "none")] * 3
    assert len(openai.chats) == 3


def test_a_server_that_refuses_every_form_is_told_so(openai: Site, tmp_path: Path) -> None:
    openai.forms = ()
    [one] = score_answers(met(openai), QUESTIONS[:1], tmp_path / "scores.jsonl")
    assert (one.status, len(openai.chats)) == ("error", 3)
    assert "response_format" in one.reason


def test_a_model_that_knows_the_limit_by_its_newer_name(openai: Site, tmp_path: Path) -> None:
    openai.limit, openai.forms = "max_completion_tokens", ("json_object", "none")
    judged = score_answers(met(openai, concurrency=1), QUESTIONS, tmp_path / "scores.jsonl")
    assert {(one.status, one.form) for one in judged} == {("scored", "json_object")}
    assert openai.chats[-1]["max_completion_tokens"] == 512
    assert "max_tokens" not in openai.chats[-1]


@pytest.mark.parametrize(
    "choice",
    [
        {
            "message": {"content": None, "refusal": "That I will not judge."},
            "finish_reason": "stop",
        },
        {"message": {"content": ""}, "finish_reason": "content_filter"},
        {"message": {"content": '{"reason": "", "score": 5}'}, "finish_reason": "content_filter"},
    ],
)
def test_a_refusal_of_the_server_is_no_score(
    choice: dict[str, Any], openai: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "tests.judge.judge_server.Handler.chat",
        lambda handler, body: handler.send(200, {"choices": [choice]}),
    )
    [one] = score_answers(met(openai), QUESTIONS[:1], tmp_path / "scores.jsonl")
    assert (one.status, one.score) == ("refused", None)


def test_the_same_name_at_another_address_is_another_judge(openai: Site, tmp_path: Path) -> None:
    score_answers(met(openai), QUESTIONS, tmp_path / "scores.jsonl")
    with serving(Site("openai", models={"mine": ""})) as other:
        score_answers(met(other), QUESTIONS, tmp_path / "scores.jsonl")
        assert len(other.chats) == 3
