"""The judge on an Ollama server: its check at the start, its requests, prompts that do not fit."""

from pathlib import Path
from typing import Any

import pytest

from sft.judge.ask import score_answers
from sft.judge.prompts import SCORE, Question
from tests.judge.judge_server import Site, met, refused, serving

QUESTION = Question(1, "tuned", "Name the capital.", "France", "Paris.", "It is Paris.")


def test_the_summary_names_the_judge(ollama: Site) -> None:
    assert met(ollama, url=ollama.url + "/").identity == {
        "kind": "ollama",
        "model": "llama3:latest",
        "digest": "365c0bd3c000",
        "version": "0.12.6",
        "context": 8192,
        "url": ollama.url,
        "prompt": "strict",
        "mode": "score",
        "options": {"seed": 123, "temperature": 0},
        "max_tokens": 512,
    }
    assert [path for _, path, _ in ollama.requests] == [
        "/api/version",
        "/api/tags",
        "/api/tags",
        "/api/show",
    ]


@pytest.mark.parametrize(
    ("given", "there", "found"),
    [
        ("llama3", "llama3:latest", True),
        ("llama3:latest", "llama3:latest", True),
        ("phi3:3.8b", "phi3:3.8b", True),
        ("me/llama3", "me/llama3:latest", True),
        ("host:5000/me/llama3", "host:5000/me/llama3:latest", True),
        ("llama3", "llama3:8b", False),
        ("llama3:8b", "llama3:latest", False),
        ("llama", "llama3:latest", False),
    ],
)
def test_a_name_without_a_tag_is_the_latest(
    given: str, there: str, found: bool, ollama: Site
) -> None:
    ollama.models = {there: "365c"}
    if found:
        assert met(ollama, model=given).identity["model"] == there
    else:
        line = refused(ollama, model=given)
        assert f"is not on {ollama.url} (there: {there}); get it by `ollama pull {given}`" in line


def test_a_missing_model_is_named_with_those_that_are_there(ollama: Site) -> None:
    line = refused(ollama, model="phi3")
    assert line.startswith(f"judge.model: phi3:latest is not on {ollama.url} ")
    for part in ("(there: llama3:latest)", "`ollama pull phi3`", "judge.pull=true"):
        assert part in line
    ollama.models.clear()
    assert "(there: none)" in refused(ollama)
    assert not ollama.chats


def test_a_missing_server_is_named_without_a_pause(ollama: Site, pauses: list[float]) -> None:
    line = refused(ollama, url="http://127.0.0.1:9")
    assert line.startswith(
        "judge.url: no Ollama server at http://127.0.0.1:9 (cannot reach 127.0.0.1:9: refused)"
    )
    assert "`ollama serve`" in line
    assert pauses == []


def test_a_server_of_another_kind_is_no_ollama_server(ollama: Site, openai: Site) -> None:
    assert "no Ollama server at" in refused(ollama, url=openai.url)
    assert "(HTTP 404: 404 page not found)" in refused(ollama, url=ollama.url + "/api")


@pytest.mark.parametrize(
    "told", [{"models": "many"}, {"models": [{}]}, [], None, {"error": "out of memory"}]
)
def test_a_malformed_list_of_models_is_no_ollama_server(
    told: Any, ollama: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "tests.judge.judge_server.Handler.tags", lambda handler: handler.send(200, told)
    )
    assert refused(ollama).startswith(f"judge.url: no Ollama server at {ollama.url} (")


def test_a_model_is_pulled_once_with_progress(
    ollama: Site, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sft.bars.redraws", lambda file: True)
    ollama.layers = [
        {"status": "pulling manifest"},
        {"status": "pulling 6a0746a1ec1a", "digest": "sha256:6a07", "total": 4_000_000},
        {
            "status": "pulling 6a0746a1ec1a",
            "digest": "sha256:6a07",
            "total": 4_000_000,
            "completed": 1_000_000,
        },
        {
            "status": "pulling 6a0746a1ec1a",
            "digest": "sha256:6a07",
            "total": 4_000_000,
            "completed": 4_000_000,
        },
        {
            "status": "pulling 4fa551d4f938",
            "digest": "sha256:4fa5",
            "total": 1_000_000,
            "completed": 1_000_000,
        },
        {"status": "verifying sha256 digest"},
        {"status": "writing manifest"},
        {"status": "success"},
    ]
    assert met(ollama, model="phi3", pull=True).identity["digest"] == "f" * 12
    shown = capfd.readouterr().err
    assert "pulling phi3:latest" in shown
    assert "5.00M/5.00M" in shown
    met(ollama, model="phi3", pull=True)
    assert [path for _, path, _ in ollama.requests].count("/api/pull") == 1


def test_a_pull_that_fails_is_refused_by_its_key(ollama: Site) -> None:
    ollama.layers = [
        {"status": "pulling manifest"},
        {"error": "pull model manifest: file does not exist"},
    ]
    line = refused(ollama, model="phi4", pull=True)
    assert line.startswith(f"judge.pull: {ollama.url} cannot pull phi4:latest ")
    assert "(pull model manifest: file does not exist)" in line

    # The connection ends before the model is there.
    ollama.layers = [{"status": "pulling manifest"}]
    assert "phi4:latest is not on" in refused(ollama, model="phi4", pull=True)


# Requests


def test_the_body_of_a_request(ollama: Site, tmp_path: Path) -> None:
    [one] = score_answers(met(ollama), [QUESTION], tmp_path / "scores.jsonl")
    [body] = ollama.chats
    assert [message["role"] for message in body.pop("messages")] == ["system", "user"]
    assert body == {
        "model": "llama3:latest",
        "stream": False,
        "think": False,
        "keep_alive": "10m",
        "options": {"seed": 123, "temperature": 0, "num_ctx": 4096, "num_predict": 512},
        "format": SCORE,
    }
    assert (one.done_reason, one.reply_tokens) == ("stop", 5)


@pytest.mark.parametrize(
    ("text", "num_ctx"),
    [
        ("word " * 100, 4096),
        ("word " * 1000, 8192),
        ("日本語" * 1000, 16384),
        ("1" * 6000, 8192),
    ],
)
def test_the_context_holds_prompt_and_reply(
    text: str, num_ctx: int, ollama: Site, tmp_path: Path
) -> None:
    ollama.context = 131072

    # The finest tokenizer that there is.
    ollama.tokens = lambda text: len(text.encode())
    question = Question(1, "tuned", "Copy.", "", "no", text)
    [one] = score_answers(met(ollama), [question], tmp_path / "scores.jsonl")
    [body] = ollama.chats
    assert body["options"]["num_ctx"] == num_ctx
    assert one.status == "scored"
    assert one.prompt_tokens is not None
    assert one.prompt_tokens <= num_ctx - 512


@pytest.mark.parametrize(
    ("told", "asked", "expected"),
    [(8192, None, 8192), (131072, None, 131072), (None, None, 8192), (8192, 2048, 2048)],
)
def test_the_context_is_the_models_or_the_configs(
    told: int | None, asked: int | None, expected: int, ollama: Site
) -> None:
    ollama.context = told
    assert met(ollama, context=asked).identity["context"] == expected


def test_a_prompt_that_cannot_fit_is_not_sent(ollama: Site, tmp_path: Path) -> None:
    long = Question(2, "tuned", "Copy.", "", "no", "word " * 5000)
    judged = score_answers(met(ollama), [QUESTION, long], tmp_path / "scores.jsonl")
    assert [one.status for one in judged] == ["scored", "refused"]
    assert judged[1].reason.startswith("not asked: 2")
    assert judged[1].reason.endswith("and the judge can hold 8192")
    assert len(ollama.chats) == 1

    # Another model may come under this name.
    ollama.context = 131072
    assert [
        one.status
        for one in score_answers(met(ollama), [QUESTION, long], tmp_path / "scores.jsonl")
    ] == ["scored"] * 2
    assert len(ollama.chats) == 2


def test_a_prompt_that_was_cut_is_no_judgement(ollama: Site, tmp_path: Path) -> None:
    # No known tokenizer makes so many.
    ollama.tokens = lambda text: 5 * len(text)
    [one] = score_answers(met(ollama), [QUESTION], tmp_path / "scores.jsonl")
    assert (one.status, one.score) == ("refused", None)
    assert one.reason == "the prompt may have been cut: 4096 tokens of 4096"


def test_the_context_changes_once_for_all_long_prompts(ollama: Site, tmp_path: Path) -> None:
    questions = [
        Question(n, "tuned", "Copy.", "", "no", "word " * (700 if n % 2 else 1)) for n in range(8)
    ]
    score_answers(met(ollama, concurrency=1), questions, tmp_path / "scores.jsonl")
    assert [body["options"]["num_ctx"] for body in ollama.chats] == [4096] * 4 + [8192] * 4


def test_another_digest_under_the_same_name_is_another_judge(ollama: Site, tmp_path: Path) -> None:
    score_answers(met(ollama), [QUESTION], tmp_path / "scores.jsonl")
    score_answers(met(ollama), [QUESTION], tmp_path / "scores.jsonl")
    assert len(ollama.chats) == 1
    ollama.models["llama3:latest"] = "another"
    score_answers(met(ollama), [QUESTION], tmp_path / "scores.jsonl")
    assert len(ollama.chats) == 2


def test_the_same_digest_at_another_address_is_the_same_judge(ollama: Site, tmp_path: Path) -> None:
    score_answers(met(ollama), [QUESTION], tmp_path / "scores.jsonl")
    with serving(Site()) as other:
        score_answers(met(other), [QUESTION], tmp_path / "scores.jsonl")
        assert other.chats == []


def test_an_old_server_that_knows_no_schema(ollama: Site, tmp_path: Path) -> None:
    ollama.forms = ("json_object", "none")
    ollama.refusal = (
        400,
        "json: cannot unmarshal object into Go struct field ChatRequest.format of type string",
    )
    [one] = score_answers(met(ollama), [QUESTION], tmp_path / "scores.jsonl")
    assert (one.status, one.form) == ("scored", "json_object")
    assert [body["format"] for body in ollama.chats] == [SCORE, "json"]
