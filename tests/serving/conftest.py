"""The embedded model, and a tiny one that speaks in random tokens, as voices."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sft.checkpoint.folder import load_pretrained
from sft.inference.models import Voice
from sft.prompts import PROMPTS
from sft.serving.engine import Engine


@pytest.fixture(scope="session")
def nano() -> Voice:
    return Voice(load_pretrained("gpt2-nano"), PROMPTS["alpaca"])


@pytest.fixture
def tiny(checkpoint: Path) -> Voice:
    """Context 128; its answers end by the limit."""
    return Voice(load_pretrained(checkpoint), "{{ instruction }}")


@pytest.fixture
def engine() -> Iterator[Callable[..., Engine]]:
    """Starts engines, and stops them after the test."""
    made: list[Engine] = []

    def start(voice: Voice, slots: int = 16, queue: int = 64) -> Engine:
        made.append(Engine(voice, slots, queue))
        return made[-1]

    yield start
    for one in made:
        for request in [*one._running.values(), *one._waiting]:  # of a test that failed
            one.cancel(request)
        one.stop()
