"""The embedded model, and a tiny one that answers in random tokens, ready to be asked."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sft.checkpoint.folder import load_pretrained
from sft.inference.models import ChatModel
from sft.prompts import PROMPTS
from sft.serving.engine import Engine


@pytest.fixture(scope="session")
def nano() -> ChatModel:
    return ChatModel(load_pretrained("gpt2-nano"), PROMPTS["alpaca"])


@pytest.fixture
def tiny(checkpoint: Path) -> ChatModel:
    """A model with a context of 128, whose answers end at their limit."""
    return ChatModel(load_pretrained(checkpoint), "{{ instruction }}")


@pytest.fixture
def engine() -> Iterator[Callable[..., Engine]]:
    """Start engines, and stop them after the test."""
    started: list[Engine] = []

    def start(chat_model: ChatModel, slots: int = 16, queue: int = 64) -> Engine:
        started.append(Engine(chat_model, slots, queue))
        return started[-1]

    yield start

    # A test that failed may leave answers that would never end.
    for one in started:
        for generation in [*one._running.values(), *one._waiting]:
            one.cancel(generation)
        one.stop()
