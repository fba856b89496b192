"""The JSON objects that are sent back, in OpenAI's form."""

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

import tiktoken

from sft.serving.api import Request
from sft.serving.engine import Piece, ScoredToken
from sft.serving.fields import Json


class Answers(ABC):
    """Builds the objects that answer one request; all of them have one id and one time."""

    kind: str
    prefix: str

    def __init__(self, request: Request, tokenizer: tiktoken.Encoding) -> None:
        self.request = request
        self.tokenizer = tokenizer
        self.id = f"{self.prefix}-{secrets.token_hex(12)}"
        self.created = int(time.time())

    @abstractmethod
    def choice(self, index: int, answer: Piece) -> Json:
        """Return a whole answer."""

    @abstractmethod
    def first(self, index: int) -> Json | None:
        """Return the choice with which the stream of an answer begins, if there is one."""

    @abstractmethod
    def part(self, index: int, piece: Piece) -> Json:
        """Return the choice that holds a piece of a streamed answer."""

    def whole(self, answers: Sequence[Piece], usage: Json) -> Json:
        """Return all answers in one object."""
        choices = []
        for index, answer in enumerate(answers):
            choices.append(self.choice(index, answer._replace(tokens=self.kept(answer))))
        return self._object(self.kind, choices) | {"usage": usage}

    def kept(self, piece: Piece) -> tuple[ScoredToken, ...]:
        """Return a piece's tokens without those of a stop string, which is no part of the text."""
        tokens = piece.tokens
        if piece.finish_reason != "stop" or (tokens and tokens[-1].id == self.tokenizer.eot_token):
            return tokens
        spelled = b""
        for number, token in enumerate(tokens):
            if len(spelled.decode(errors="replace")) >= len(piece.text):
                return tokens[:number]
            spelled += self._bytes(token.id)
        return tokens

    def chunk(self, choice: Json) -> Json:
        """Return the object around a choice of a stream."""
        content = self._object(self._chunks, [choice])

        # OpenAI promises the key in every chunk if the last one reports the usage.
        if self.request.include_usage:
            content["usage"] = None
        return content

    def usage_chunk(self, usage: Json) -> Json:
        """Return the last chunk of a stream that reports its usage; it has no choices."""
        return self._object(self._chunks, []) | {"usage": usage}

    @property
    def _chunks(self) -> str:
        return self.kind

    def _object(self, kind: str, choices: list[Json]) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.request.model,
            "choices": choices,
        }

    def _spell(self, id: int) -> str:
        """Return a token as text, or as its bytes if it is only part of a character."""
        spelled = self._bytes(id)
        try:
            return spelled.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)

    def _bytes(self, id: int) -> bytes:
        # A model may have more ids than its tokenizer, as its size was rounded up.
        if id >= self.tokenizer.n_vocab:
            return b""
        return self.tokenizer.decode_single_token_bytes(id)


class ChatAnswers(Answers):
    """The answers to a chat's request."""

    kind = "chat.completion"
    prefix = "chatcmpl"

    def choice(self, index: int, answer: Piece) -> Json:
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(answer),
            "finish_reason": answer.finish_reason,
        }

    def first(self, index: int) -> Json:
        return self._delta(index, {"role": "assistant", "content": ""})

    def part(self, index: int, piece: Piece) -> Json:
        delta = {"content": piece.text} if piece.text else {}
        return self._delta(index, delta, piece)

    def _delta(self, index: int, delta: Json, piece: Piece | None = None) -> Json:
        return {
            "index": index,
            "delta": delta,
            "logprobs": self._logprobs(piece) if piece and piece.tokens else None,
            "finish_reason": piece.finish_reason if piece else None,
        }

    @property
    def _chunks(self) -> str:
        return "chat.completion.chunk"

    def _logprobs(self, piece: Piece) -> Json | None:
        """Return what the model thought of a piece's tokens. A chat does not see the end token."""
        if self.request.sampling.logprobs is None:
            return None
        content = []
        for id, found in piece.tokens:
            if id == self.tokenizer.eot_token or found is None:
                continue
            likeliest = [self._scored(other, logprob) for other, logprob in found.likeliest]
            content.append(self._scored(id, found.chosen) | {"top_logprobs": likeliest})
        return {"content": content, "refusal": None}

    def _scored(self, id: int, logprob: float) -> Json:
        return {"token": self._spell(id), "logprob": logprob, "bytes": list(self._bytes(id))}


class TextAnswers(Answers):
    """The continuations of plain texts."""

    kind = "text_completion"
    prefix = "cmpl"

    def __init__(self, request: Request, tokenizer: tiktoken.Encoding) -> None:
        super().__init__(request, tokenizer)

        # Where the next token of a streamed answer begins, by the answer's index.
        self._offsets: dict[int, int] = {}

    def choice(self, index: int, answer: Piece) -> Json:
        return self.part(index, answer)

    def first(self, index: int) -> None:
        return None

    def part(self, index: int, piece: Piece) -> Json:
        return {
            "text": piece.text,
            "index": index,
            "logprobs": self._logprobs(index, piece.tokens),
            "finish_reason": piece.finish_reason,
        }

    def _logprobs(self, index: int, scored: Sequence[ScoredToken]) -> Json | None:
        if self.request.sampling.logprobs is None:
            return None
        tokens = []
        logprobs = []
        likeliest: list[Json | None] = []
        offsets = []
        for id, found in scored:
            token = self._spell(id)
            tokens.append(token)
            logprobs.append(found.chosen if found else None)
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(self.tokenizer.decode([id]))

            # The token that was taken stands among the likeliest, wherever its place is.
            if found is None:
                likeliest.append(None)
                continue
            top = {self._spell(other): logprob for other, logprob in found.likeliest}
            likeliest.append(top | {token: found.chosen})
        return {
            "tokens": tokens,
            "token_logprobs": logprobs,
            "top_logprobs": likeliest if self.request.sampling.logprobs else None,
            "text_offset": offsets,
        }


def usage(prompt_tokens: int, completion_tokens: int) -> Json:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
