"""An answer as it grows: tokens in, text out."""

import codecs
from collections.abc import Sequence
from typing import Literal

import tiktoken

FinishReason = Literal["stop", "length"]


class Answer:
    """Gives the text of each token as soon as it is certain. A character may be spread over several tokens, and a stop
    string over several pieces of text: what may become one is held back.

    Args:
        room: the most tokens.
        stop: texts that end the answer, and are no part of it.
    """

    def __init__(self, tokenizer: tiktoken.Encoding, room: int, stop: Sequence[str] = ()) -> None:
        self.tokenizer, self.room, self.stop = tokenizer, room, stop
        self.tokens = 0  # without the end token
        self.finish_reason: FinishReason | None = None  # None: it goes on
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""

    def add(self, token: int) -> str:
        """The text that is certain now; it may be empty."""
        if token == self.tokenizer.eot_token:
            self.finish_reason = "stop"
            return self._release(b"")
        self.tokens += 1
        if self.tokens == self.room:
            self.finish_reason = "length"
        has_text = token < self.tokenizer.n_vocab  # a model may have more ids, to round its size up
        return self._release(self.tokenizer.decode_single_token_bytes(token) if has_text else b"")

    def _release(self, fresh: bytes) -> str:
        text = self._held + self._characters.decode(fresh, final=self.finish_reason is not None)
        if found := [text.index(stop) for stop in self.stop if stop in text]:
            self.finish_reason, self._held = "stop", ""
            return text[: min(found)]
        sure = len(text) - (0 if self.finish_reason else self._begun(text))
        self._held = text[sure:]
        return text[:sure]

    def _begun(self, text: str) -> int:
        """How many of the last characters may be the beginning of a stop string."""
        lengths = (n for stop in self.stop for n in range(1, len(stop)) if text.endswith(stop[:n]))
        return max(lengths, default=0)
