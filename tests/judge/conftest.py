"""A judge's server of each kind, and pauses that are not waited for."""

from collections.abc import Iterator

import pytest

from tests.judge.judge_server import Site, serving


@pytest.fixture
def ollama() -> Iterator[Site]:
    """An Ollama server with llama3."""
    with serving(Site()) as site:
        yield site


@pytest.fixture
def openai() -> Iterator[Site]:
    """A server of OpenAI's kind with one model, "mine"."""
    with serving(Site("openai", models={"mine": ""})) as site:
        yield site


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses in seconds that a client would have made. None is made."""
    made: list[float] = []
    monkeypatch.setattr("sft.judge.client.sleep", made.append)
    return made
