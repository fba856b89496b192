"""The Ollama judge: the look at the server before all else, what a request holds, and prompts that do not fit."""

from pathlib import Path
from typing import Any

import pytest

from sft.judge.ask import judge_all
from sft.judge.prompts import SCORE, Question
from tests.judge.judge_server import Site, met, refused, serving

QUESTION = Question(1, "tuned", "Name the capital.", "France", "Paris.", "It is Paris.")


def test_who_judges(ollama: Site) -> None:
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


def test_a_model_that_is_not_there(ollama: Site) -> None:
    assert refused(ollama, model="phi3") == (
        f"judge.model: phi3:latest is not on {ollama.url} (there: llama3:latest); get it by `ollama pull phi3`, or add "
        "judge.pull=true"
    )
    ollama.models.clear()
    assert "(there: none)" in refused(ollama)
    assert not ollama.chats


def test_no_server(ollama: Site, pauses: list[float]) -> None:
    line = refused(ollama, url="http://127.0.0.1:9")
    assert line.startswith(
        "judge.url: no Ollama server at http://127.0.0.1:9 (cannot reach 127.0.0.1:9: refused)"
    )
    assert line.endswith(
        "); start one with `ollama serve`, or give its address, such as judge.url=http://localhost:11434"
    )
    assert pauses == []


def test_another_server(ollama: Site, openai: Site) -> None:
    assert "no Ollama server at" in refused(ollama, url=openai.url)
    assert "(HTTP 404: 404 page not found)" in refused(ollama, url=ollama.url + "/api")


@pytest.mark.parametrize(
    "told", [{"models": "many"}, {"models": [{}]}, [], None, {"error": "out of memory"}]
)
def test_a_list_of_models_that_is_none(
    told: Any, ollama: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "tests.judge.judge_server.Handler.tags", lambda handler: handler.send(200, told)
    )
    assert refused(ollama).startswith(f"judge.url: no Ollama server at {ollama.url} (")


def test_a_model_is_pulled(ollama: Site, capfd: pytest.CaptureFixture[str]) -> None:
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


def test_a_pull_that_fails(ollama: Site) -> None:
    ollama.layers = [
        {"status": "pulling manifest"},
        {"error": "pull model manifest: file does not exist"},
    ]
    assert refused(ollama, model="phi4", pull=True) == (
        f"judge.pull: {ollama.url} cannot pull phi4:latest (pull model manifest: file does not exist); is this its "
        "name on ollama.com?"
    )
    ollama.layers = [{"status": "pulling manifest"}]  # and then the connection ends
    assert "phi4:latest is not on" in refused(ollama, model="phi4", pull=True)


# Requests


def test_what_is_sent(ollama: Site, tmp_path: Path) -> None:
    [verdict] = judge_all(met(ollama), [QUESTION], tmp_path / "scores.jsonl")
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
    assert (verdict.done_reason, verdict.reply_tokens) == ("stop", 5)


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
    ollama.context, ollama.tokens = (
        131072,
        lambda text: len(text.encode()),
    )  # the finest tokenizer there is
    question = Question(1, "tuned", "Copy.", "", "no", text)
    [verdict] = judge_all(met(ollama), [question], tmp_path / "scores.jsonl")
    [body] = ollama.chats
    assert body["options"]["num_ctx"] == num_ctx
    assert verdict.status == "scored"
    assert verdict.prompt_tokens is not None
    assert verdict.prompt_tokens <= num_ctx - 512


@pytest.mark.parametrize(
    ("told", "asked", "expected"),
    [(8192, None, 8192), (131072, None, 131072), (None, None, 8192), (8192, 2048, 2048)],
)
def test_how_much_the_model_can_hold(
    told: int | None, asked: int | None, expected: int, ollama: Site
) -> None:
    ollama.context = told
    assert met(ollama, context=asked).identity["context"] == expected


def test_a_prompt_that_cannot_fit_is_not_sent(ollama: Site, tmp_path: Path) -> None:
    long = Question(2, "tuned", "Copy.", "", "no", "word " * 5000)
    verdicts = judge_all(met(ollama), [QUESTION, long], tmp_path / "scores.jsonl")
    assert [verdict.status for verdict in verdicts] == ["scored", "refused"]
    assert verdicts[1].reason.startswith("not asked: 2")
    assert verdicts[1].reason.endswith("and the judge can hold 8192")
    assert len(ollama.chats) == 1

    ollama.context = 131072  # another model under this name, say
    assert [
        verdict.status
        for verdict in judge_all(met(ollama), [QUESTION, long], tmp_path / "scores.jsonl")
    ] == ["scored"] * 2
    assert len(ollama.chats) == 2


def test_a_prompt_that_was_cut_is_no_judgement(ollama: Site, tmp_path: Path) -> None:
    ollama.tokens = lambda text: 5 * len(text)  # of no tokenizer that we know
    [verdict] = judge_all(met(ollama), [QUESTION], tmp_path / "scores.jsonl")
    assert (verdict.status, verdict.score) == ("refused", None)
    assert verdict.reason == "the prompt may have been cut: 4096 tokens of 4096"


def test_another_context_is_asked_for_seldom(ollama: Site, tmp_path: Path) -> None:
    questions = [
        Question(n, "tuned", "Copy.", "", "no", "word " * (700 if n % 2 else 1)) for n in range(8)
    ]
    judge_all(met(ollama, concurrency=1), questions, tmp_path / "scores.jsonl")
    assert [body["options"]["num_ctx"] for body in ollama.chats] == [4096] * 4 + [8192] * 4


def test_another_digest_under_the_same_name_begins_anew(ollama: Site, tmp_path: Path) -> None:
    judge_all(met(ollama), [QUESTION], tmp_path / "scores.jsonl")
    judge_all(met(ollama), [QUESTION], tmp_path / "scores.jsonl")
    assert len(ollama.chats) == 1
    ollama.models["llama3:latest"] = "another"
    judge_all(met(ollama), [QUESTION], tmp_path / "scores.jsonl")
    assert len(ollama.chats) == 2


def test_the_same_model_at_another_address_goes_on(ollama: Site, tmp_path: Path) -> None:
    judge_all(met(ollama), [QUESTION], tmp_path / "scores.jsonl")
    with serving(Site()) as other:
        judge_all(met(other), [QUESTION], tmp_path / "scores.jsonl")
        assert other.chats == []


def test_an_old_server_that_knows_no_schema(ollama: Site, tmp_path: Path) -> None:
    ollama.forms = ("json_object", "none")
    ollama.refusal = (
        400,
        "json: cannot unmarshal object into Go struct field ChatRequest.format of type string",
    )
    [verdict] = judge_all(met(ollama), [QUESTION], tmp_path / "scores.jsonl")
    assert (verdict.status, verdict.form) == ("scored", "json_object")
    assert [body["format"] for body in ollama.chats] == [SCORE, "json"]
