"""The application on a port of this machine, and a brake for its engines."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import uvicorn

from sft.serve import address, listen
from sft.serving.app import make_app
from sft.serving.engine import Engine


@contextmanager
def running(engines: Mapping[str, Engine], max_tokens: int = 64) -> Iterator[str]:
    """Its address."""
    listener = listen("127.0.0.1", 0)
    app = make_app(engines, max_tokens, "127.0.0.1")
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
    """Lets an engine's decoder take a step only when `steps` has one; notes how many rows each step had."""

    def __init__(self, engine: Engine) -> None:
        self.steps = threading.Semaphore(0)
        self.rows: list[int] = []
        self._step = engine._decoder.step
        engine._decoder.step = self.step  # type: ignore[method-assign]

    def step(self) -> list[tuple[int, int]]:
        self.steps.acquire(timeout=10)  # a test that failed must come to its end
        told = self._step()
        self.rows.append(len(told))
        return told

    def release(self) -> None:
        self.steps.release(10_000)
