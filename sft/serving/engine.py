"""A model that answers many callers at once, in a thread of its own (continuous batching).

Prompts wait in a queue. Between two steps of the decoder, free slots are filled from it. So what
arrives together is decoded together, and an answer that its caller gave up frees its slot.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Condition, Lock, Thread
from typing import Literal, NamedTuple

from sft.gpt2.generate import Decoder, TokenLogprobs
from sft.gpt2.sampling import Sampling
from sft.inference.models import ChatModel
from sft.inference.scores import prompt_logprobs
from sft.inference.stream import AnswerStream, FinishReason

log = logging.getLogger(__name__)


class FullError(Exception):
    """The queue is full."""


class ClosingError(Exception):
    """The engine is stopping and takes nothing new."""


class ScoredToken(NamedTuple):
    """A token, and what the model thought of it; None: the text begins with it."""

    id: int
    logprobs: TokenLogprobs | None


class Piece(NamedTuple):
    """Some text of an answer. The last piece has a finish reason.

    `failed` says that the model raised an error, which is logged. `tokens` holds those since the
    piece before, with the end token, if the sampling asks for log-probabilities.
    """

    text: str
    finish_reason: FinishReason | Literal["failed"] | None = None
    tokens: tuple[ScoredToken, ...] = ()


@dataclass(eq=False)
class Generation:
    """One prompt, and the answer that is generated for it.

    Args:
        on_piece: called with each piece, in the engine's thread; it must not block.
    """

    prompt: list[int]
    answer: AnswerStream
    on_piece: Callable[[Piece], None]
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    cancelled: bool = False
    scored: list[ScoredToken] = field(default_factory=list)  # since the last piece


class Engine:
    """One model, its decoder, and the thread that owns it.

    Args:
        slots: answers that are decoded together.
        queue: prompts that may wait for a slot.
    """

    def __init__(self, chat_model: ChatModel, slots: int, queue: int) -> None:
        self.chat_model = chat_model
        self.slots = slots
        self.queue = queue
        self.closing = False

        # One prompt at a time is scored, beside the thread.
        self._scoring = Lock()

        # The condition guards `_waiting` and wakes the thread.
        self._changed = Condition()
        self._waiting: deque[Generation] = deque()

        # Keyed by the decoder's row number. Only the thread changes it.
        self._running: dict[int, Generation] = {}

        self._decoder = self._new_decoder()
        self._thread = Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def _new_decoder(self) -> Decoder:
        return Decoder(self.chat_model.model, self.slots, self.chat_model.context)

    @property
    def load(self) -> tuple[int, int]:
        """The numbers of answers that are decoded, and of prompts that wait."""
        return len(self._running), len(self._waiting)

    def submit(self, generation: Generation) -> None:
        """Put a prompt into the queue.

        Raises:
            FullError: the queue is full.
            ClosingError: the engine is stopping.
        """
        with self._changed:
            if self.closing:
                raise ClosingError
            if len(self._waiting) + len(self._running) >= self.slots + self.queue:
                raise FullError
            self._waiting.append(generation)
            self._changed.notify()

    def cancel(self, generation: Generation) -> None:
        """Give an answer up before the next step; a finished one is not affected."""
        with self._changed:
            generation.cancelled = True
            if generation in self._waiting:
                self._waiting.remove(generation)
            self._changed.notify()

    def score(self, prompt: list[int], count: int) -> tuple[ScoredToken, ...]:
        """Return what the model thinks of each token of a prompt, in the caller's thread.

        Args:
            count: how many of the likeliest tokens are returned too, at each place.
        """
        with self._scoring:
            found = prompt_logprobs(self.chat_model.model, prompt, count)
        return tuple(map(ScoredToken, prompt, found))

    def stop(self) -> None:
        """Take nothing new, finish every answer that was taken, and return."""
        with self._changed:
            self.closing = True
            self._changed.notify()
        self._thread.join()

    # In the engine's thread

    def _run(self) -> None:
        going = True
        while going:
            try:
                going = self._admit()
                for row, token in self._decoder.step():
                    self._take(row, token)
            # A failure, as when memory runs out, loses the current answers. The next may succeed.
            except Exception:
                log.exception("error: the model failed")
                self._fail()

    def _admit(self) -> bool:
        """Wait for work, drop what was cancelled, and fill the slots; False: the thread ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._running or self.closing)

            cancelled = [row for row, found in self._running.items() if found.cancelled]
            for row in cancelled:
                self._free(row)

            while self._waiting and len(self._running) < self.slots:
                generation = self._waiting.popleft()
                try:
                    row = self._decoder.add(generation.prompt, generation.seed, generation.sampling)
                # An empty or too long prompt: the caller should have checked it.
                except ValueError:
                    log.exception("error: the model cannot read a prompt")
                    generation.on_piece(Piece("", "failed"))
                else:
                    self._running[row] = generation

            return bool(self._waiting or self._running or not self.closing)

    def _take(self, row: int, token: int) -> None:
        generation = self._running[row]
        if row in self._decoder.logprobs:
            generation.scored.append(ScoredToken(token, self._decoder.logprobs[row]))
        text = generation.answer.add(token)
        finish_reason = generation.answer.finish_reason
        if finish_reason:
            self._free(row)
        if text or finish_reason:
            generation.on_piece(Piece(text, finish_reason, tuple(generation.scored)))
            generation.scored.clear()

    def _free(self, row: int) -> None:
        self._decoder.remove(row)
        del self._running[row]

    def _fail(self) -> None:
        for generation in self._running.values():
            generation.on_piece(Piece("", "failed"))
        self._running.clear()
        self._decoder = self._new_decoder()
