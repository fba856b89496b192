"""The application on a port of this machine, and a brake for its engines."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import uvicorn

from sft.serve import address, listen
from sft.serving.app import make_app
from sft.serving.engine import Engine
from sft.serving.guard import Access


@contextmanager
def running(engines: Mapping[str, Engine], max_tokens: int = 64, **access: object) -> Iterator[str]:
    """Run a server in a thread; yield its URL."""
    listener = listen("127.0.0.1", 0)
    app = make_app(engines, max_tokens, Access("127.0.0.1", **access))
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=10)
    )
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield address(listener)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


class Brake:
    """Lets an engine's decoder take a step only when `steps` has one.

    `rows` holds the number of rows of each step.
    """

    def __init__(self, engine: Engine) -> None:
        self.steps = threading.Semaphore(0)
        self.rows: list[int] = []
        self._step = engine._decoder.step
        engine._decoder.step = self.step  # type: ignore[method-assign]

    def step(self) -> list[tuple[int, int]]:
        # The limit lets a test that failed come to its end.
        self.steps.acquire(timeout=10)
        tokens = self._step()
        self.rows.append(len(tokens))
        return tokens

    def release(self) -> None:
        self.steps.release(10_000)


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)
