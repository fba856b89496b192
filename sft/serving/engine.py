"""A model that answers many callers at once, in a thread of its own.

Requests wait in a queue; between two steps of the decoder those that have a slot coming are let in, so that what
arrives together is decoded together, and what its caller has given up makes room.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import Literal, NamedTuple

from sft.gpt2.generate import Decoder
from sft.gpt2.sampling import Sampling
from sft.inference.models import Voice
from sft.inference.stream import Answer, FinishReason

log = logging.getLogger(__name__)


class FullError(Exception):
    """As many requests wait as may."""


class ClosingError(Exception):
    """No new requests are taken."""


class Piece(NamedTuple):
    """Some text of an answer, and at its end what ended it; `failed`: the model raised an error, which is logged."""

    text: str
    finish_reason: FinishReason | Literal["failed"] | None = None


@dataclass(eq=False)
class Request:
    """A prompt on its way.

    Args:
        tell: called with each piece, in the engine's thread; it must not block.
    """

    prompt: list[int]
    answer: Answer
    tell: Callable[[Piece], None]
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    cancelled: bool = False


class Engine:
    """One model, its decoder, and the thread that owns it.

    Args:
        slots: requests that are decoded together.
        queue: requests that may wait for a slot.
    """

    def __init__(self, voice: Voice, slots: int, queue: int) -> None:
        self.voice, self.slots, self.queue = voice, slots, queue
        self.closing = False
        self._changed = Condition()  # guards `_waiting`, and wakes the thread
        self._waiting: deque[Request] = deque()
        self._running: dict[int, Request] = {}  # by the decoder's row; the thread's own
        self._decoder = self._fresh_decoder()
        self._thread = Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def _fresh_decoder(self) -> Decoder:
        return Decoder(self.voice.model, self.slots, self.voice.context)

    @property
    def load(self) -> tuple[int, int]:
        """How many requests are being answered, and how many wait."""
        return len(self._running), len(self._waiting)

    def submit(self, request: Request) -> None:
        """Raises FullError or ClosingError if the request is not taken."""
        with self._changed:
            if self.closing:
                raise ClosingError
            if len(self._waiting) + len(self._running) >= self.slots + self.queue:
                raise FullError
            self._waiting.append(request)
            self._changed.notify()

    def cancel(self, request: Request) -> None:
        """Forget a request, before the next step; one that is answered already is none the worse for it."""
        with self._changed:
            request.cancelled = True
            if request in self._waiting:
                self._waiting.remove(request)
            self._changed.notify()

    def stop(self) -> None:
        """Take nothing new, answer all that was taken, and come back."""
        with self._changed:
            self.closing = True
            self._changed.notify()
        self._thread.join()

    # The thread

    def _run(self) -> None:
        going = True
        while going:
            try:
                going = self._admit()
                for row, token in self._decoder.step():
                    self._take(row, token)
            except Exception:  # as when memory runs out: these are lost, the next ones may be well
                log.exception("error: the model failed")
                self._fail()

    def _admit(self) -> bool:
        """Drop what was given up and fill the slots, once there is anything to do; False: never again."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._running or self.closing)
            for row in [row for row, request in self._running.items() if request.cancelled]:
                self._leave(row)
            while self._waiting and len(self._running) < self.slots:
                request = self._waiting.popleft()
                try:
                    row = self._decoder.add(request.prompt, request.seed, request.sampling)
                except ValueError:  # nothing to read, or too much: whoever asks should have looked
                    log.exception("error: a question cannot be read")
                    request.tell(Piece("", "failed"))
                else:
                    self._running[row] = request
            return bool(self._waiting or self._running or not self.closing)

    def _take(self, row: int, token: int) -> None:
        request = self._running[row]
        text = request.answer.add(token)
        if request.answer.finish_reason:
            self._leave(row)
        if text or request.answer.finish_reason:
            request.tell(Piece(text, request.answer.finish_reason))

    def _leave(self, row: int) -> None:
        self._decoder.remove(row)
        del self._running[row]

    def _fail(self) -> None:
        for request in self._running.values():
            request.tell(Piece("", "failed"))
        self._running.clear()
        self._decoder = self._fresh_decoder()
