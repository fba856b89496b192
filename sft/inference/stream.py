"""The text of an answer as it grows: tokens in, text out."""

import codecs
from collections.abc import Sequence
from typing import Literal

import tiktoken

FinishReason = Literal["stop", "length"]


class AnswerStream:
    """Decodes an answer token by token, and notices its end.

    Text is given out as soon as it is certain. A character may be spread over several tokens, and
    a stop string over several pieces of text. What may still become one of them is held back.

    `finish_reason` is None while the answer goes on. `tokens` does not count the end token.

    Args:
        max_tokens: the most tokens of the answer.
        stop: texts that end the answer and are left out of it.
    """

    def __init__(
        self, tokenizer: tiktoken.Encoding, max_tokens: int, stop: Sequence[str] = ()
    ) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.stop = stop
        self.tokens = 0
        self.finish_reason: FinishReason | None = None
        self._bytes_to_text = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""

    def add(self, token: int) -> str:
        """Take the next token; return the text that is now certain, which may be empty."""
        if token == self.tokenizer.eot_token:
            self.finish_reason = "stop"
            return self._release(b"")
        self.tokens += 1
        if self.tokens == self.max_tokens:
            self.finish_reason = "length"

        # A model may have more ids than its tokenizer, as its size was rounded up.
        if token >= self.tokenizer.n_vocab:
            return self._release(b"")
        return self._release(self.tokenizer.decode_single_token_bytes(token))

    def _release(self, fresh: bytes) -> str:
        at_end = self.finish_reason is not None
        text = self._held + self._bytes_to_text.decode(fresh, final=at_end)
        self._held = ""

        # The earliest stop string ends the answer.
        found = [text.index(stop) for stop in self.stop if stop in text]
        if found:
            self.finish_reason = "stop"
            return text[: min(found)]
        if at_end:
            return text

        # Hold back the longest end of the text with which a stop string may begin.
        held = 0
        for stop in self.stop:
            for length in range(1, len(stop)):
                if text.endswith(stop[:length]):
                    held = max(held, length)
        certain = len(text) - held
        self._held = text[certain:]
        return text[:certain]
