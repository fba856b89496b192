"""The judge of OpenAI's kind: its key, which is nowhere to be seen, servers without one, and what a request holds."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from sft.config import InputError
from sft.evaluation.judging import judge_all
from sft.evaluation.rubric import SCORE, Question
from tests.evaluation.judge_server import Site, met, refused, serving

KEY = "sk-proj-0123456789abcdef"
QUESTIONS = [Question(n, "tuned", "Name the capital.", "France", "Paris.", "It is Paris" + "." * n) for n in range(3)]


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def test_who_judges(openai: Site) -> None:
    assert met(openai).identity == {
        "kind": "openai",
        "model": "mine",
        "url": openai.url,
        "prompt": "strict",
        "mode": "score",
        "options": {"seed": 123, "temperature": 0},
    }


def test_what_is_sent_and_without_a_key(openai: Site, tmp_path: Path) -> None:
    [verdict] = judge_all(met(openai), QUESTIONS[:1], tmp_path / "scores.jsonl")
    [body] = openai.chats
    assert [message["role"] for message in body.pop("messages")] == ["system", "user"]
    schema = {"name": "verdict", "strict": True, "schema": SCORE}
    form = {"type": "json_schema", "json_schema": schema}
    assert body == {"model": "mine", "stream": False, "seed": 123, "temperature": 0, "response_format": form}
    assert [(method, path) for method, path, _ in openai.requests] == [
        ("GET", "/v1/models"),
        ("POST", "/v1/chat/completions"),
    ]
    assert not any("Authorization" in headers for _, _, headers in openai.requests)
    assert verdict.status == "scored"
    assert verdict.prompt_tokens is not None
    assert verdict.prompt_tokens > 100


def test_a_password_in_netrc_is_not_sent(openai: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr("sft.evaluation.client.is_local", lambda url: False)  # which would not look there anyway
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


def test_with_a_key(openai: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openai.key = KEY
    assert refused(openai).endswith("; put the right key into OPENAI_API_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another-one")
    assert "HTTP 401: wrong key: Bearer (key); put the right key into OPENAI_API_KEY" in refused(openai)
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    verdicts = judge_all(met(openai), QUESTIONS, tmp_path / "scores.jsonl")
    assert {verdict.status for verdict in verdicts} == {"scored"}


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
    verdicts = judge_all(judge, QUESTIONS[:1], tmp_path / "scores.jsonl")
    openai.judge = lambda messages: f"Bearer {KEY}"
    verdicts += judge_all(judge, QUESTIONS[1:2], tmp_path / "scores.jsonl")
    openai.key = "another"
    with pytest.raises(InputError) as error:
        judge_all(judge, QUESTIONS, tmp_path / "scores.jsonl")

    seen = [str(error.value), caplog.text, *capfd.readouterr(), json.dumps(judge.identity), repr(verdicts), repr(judge)]
    seen += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(KEY in text for text in seen)
    assert [verdict.reason for verdict in verdicts] == ["your key is (key)", "Bearer (key)"]
    assert all(headers["Authorization"] == f"Bearer {KEY}" for _, _, headers in openai.requests)


@pytest.mark.parametrize("key", ["sk-1\n23456789", "sk 123456789", "schlüssel", "sk-\x00123456"])
def test_a_key_that_is_none(key: str, openai: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {"OPENAI_API_KEY": key})
    assert refused(openai) == "OPENAI_API_KEY: holds characters that no key has; set it anew"


def test_no_server(openai: Site, ollama: Site, pauses: list[float]) -> None:
    line = refused(openai, url="http://127.0.0.1:9/v1")
    assert line.startswith("judge.url: no server at http://127.0.0.1:9/v1 (cannot reach 127.0.0.1:9: refused)")
    assert line.endswith("start it, or give the address of another, up to /v1, as judge.url")
    assert pauses == []


def test_a_server_that_does_not_list_its_models(openai: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for code in (404, 405, 501):
        monkeypatch.setattr(
            "tests.evaluation.judge_server.Handler.listed", lambda handler, code=code: handler.send(code, b"")
        )
        assert met(openai).identity["model"] == "mine"


def test_an_address_without_v1(openai: Site, tmp_path: Path) -> None:
    judge = met(openai, url=openai.url.removesuffix("/v1"))
    with pytest.raises(InputError, match=r"HTTP 404: .*; is this the model's name, and does judge.url go up to /v1\?"):
        judge_all(judge, QUESTIONS, tmp_path / "scores.jsonl")


@pytest.mark.parametrize("code", [400, 422, 500])
def test_a_server_without_schemas(
    code: int, openai: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    said = {"error": {"message": "Unknown parameter: 'response_format'.", "type": "invalid_request_error"}}
    reply = {"choices": [{"message": {"role": "assistant", "content": '{"reason": "", "score": 5}'}}]}

    def chat(handler: Any, body: dict[str, Any]) -> None:
        handler.send(*((code, said) if "response_format" in body else (200, reply)))

    monkeypatch.setattr("tests.evaluation.judge_server.Handler.chat", chat)
    with pytest.raises(InputError, match=r"judge.schema: .*Unknown parameter.*; add judge.schema=false"):
        judge_all(met(openai), QUESTIONS, tmp_path / "scores.jsonl")
    verdicts = judge_all(met(openai, schema=False), QUESTIONS, tmp_path / "scores.jsonl")
    assert [(verdict.score, verdict.done_reason, verdict.prompt_tokens) for verdict in verdicts] == [
        (5, None, None)
    ] * 3


@pytest.mark.parametrize(
    "choice",
    [
        {"message": {"content": None, "refusal": "That I will not judge."}, "finish_reason": "stop"},
        {"message": {"content": ""}, "finish_reason": "content_filter"},
        {"message": {"content": '{"reason": "", "score": 5}'}, "finish_reason": "content_filter"},
    ],
)
def test_refusals(choice: dict[str, Any], openai: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tests.evaluation.judge_server.Handler.chat", lambda handler, body: handler.send(200, {"choices": [choice]})
    )
    [verdict] = judge_all(met(openai), QUESTIONS[:1], tmp_path / "scores.jsonl")
    assert (verdict.status, verdict.score) == ("refused", None)


def test_the_same_name_at_another_address_is_another_judge(openai: Site, tmp_path: Path) -> None:
    judge_all(met(openai), QUESTIONS, tmp_path / "scores.jsonl")
    with serving(Site("openai", models={"mine": ""})) as other:
        judge_all(met(other), QUESTIONS, tmp_path / "scores.jsonl")
        assert len(other.chats) == 3
