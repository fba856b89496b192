"""The addresses of OpenAI's API, and the way of a question from HTTP to the engine and back."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from sft.errors import InputError
from sft.inference.models import TooLongError, Voice
from sft.inference.stream import Answer
from sft.serving.api import ApiError, Json, Question, earlier_turns, parse
from sft.serving.engine import ClosingError, Engine, FullError, Piece, Request
from sft.serving.replies import Reply, reply, usage

BODY_LIMIT = 1 << 18  # bytes; no context holds as much


@dataclass(frozen=True)
class Endpoints:
    engines: Mapping[str, Engine]
    max_tokens: int
    created: int  # seconds since 1970

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        for engine in self.engines.values():
            await run_in_threadpool(engine.stop)

    async def health(self, _: HttpRequest) -> Response:
        loads = {
            name: dict(zip(("running", "waiting"), e.load, strict=True))
            for name, e in self.engines.items()
        }
        return reply({"status": "ok", "models": loads})

    async def models(self, _: HttpRequest) -> Response:
        return reply({"object": "list", "data": [self._model(name) for name in self.engines]})

    async def model(self, request: HttpRequest) -> Response:
        self._engine(request.path_params["name"])
        return reply(self._model(request.path_params["name"]))

    def _model(self, name: str) -> Json:
        return {"id": name, "object": "model", "created": self.created, "owned_by": "sft"}

    def _engine(self, name: str) -> Engine:
        if name not in self.engines:
            message = f"model: {name[:80]!r} is not here; there are {', '.join(self.engines)}"
            raise ApiError(404, message, "model", "model_not_found")
        return self.engines[name]

    async def chat(self, http: HttpRequest) -> Response:
        question = parse(await read_body(http), self.max_tokens)
        engine = self._engine(question.model)
        pieces: asyncio.Queue[Piece] = asyncio.Queue()
        request = await run_in_threadpool(
            make_request, question, engine.voice, from_thread(pieces.put_nowait)
        )
        submit(engine, request)
        stream, cancel = read(pieces), partial(engine.cancel, request)
        if question.stream:
            return EventStream(events(question, request, stream), cancel)
        return await whole(http, question, request, stream, cancel)


async def read_body(http: HttpRequest) -> bytes:
    body = bytearray()
    async for chunk in http.stream():
        body += chunk
        if len(body) > BODY_LIMIT:
            raise ApiError(
                413, f"the body: expected at most {BODY_LIMIT:,} bytes", None, "request_too_large"
            )
    return bytes(body)


def make_request(question: Question, voice: Voice, tell: Callable[[Piece], None]) -> Request:
    earlier = earlier_turns(question) if voice.converses else []
    try:
        prompt = voice.prompt(question.instruction, question.input, earlier)
    except TooLongError as error:
        raise ApiError(400, f"messages: {error}", "messages", "context_length_exceeded") from error
    except InputError as error:  # of the template
        raise ApiError(400, f"messages: {error}", "messages", "invalid_value") from error
    answer = Answer(
        voice.tokenizer, min(voice.context - len(prompt), question.max_tokens), question.stop
    )
    return Request(prompt, answer, tell, question.sampling, question.seed)


def submit(engine: Engine, request: Request) -> None:
    try:
        engine.submit(request)
    except FullError:
        message = (
            f"{engine.slots} questions are being answered and {engine.queue} wait; ask again later"
        )
        raise ApiError(429, message, None, "queue_full", "rate_limit_error") from None
    except ClosingError:
        raise ApiError(
            503, "the server is shutting down", None, "shutting_down", "server_error"
        ) from None


def from_thread(function: Callable[[Piece], None]) -> Callable[[Piece], None]:
    """The same function, to be called from another thread than the event loop's."""
    loop = asyncio.get_running_loop()

    def call(piece: Piece) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server did not wait for this answer
            loop.call_soon_threadsafe(function, piece)

    return call


async def read(pieces: asyncio.Queue[Piece]) -> AsyncIterator[Piece]:
    """All pieces of an answer. Raises ApiError if the model fails."""
    while True:
        piece = await pieces.get()
        if piece.finish_reason == "failed":
            raise ApiError(
                500,
                "the model failed; the server's log says how",
                None,
                "model_failed",
                "server_error",
            )
        yield piece
        if piece.finish_reason:
            return


async def whole(
    http: HttpRequest,
    question: Question,
    request: Request,
    pieces: AsyncIterator[Piece],
    cancel: Callable[[], None],
) -> Response:
    """The answer in one piece; given up if the caller goes away."""

    async def collect() -> list[Piece]:
        return [piece async for piece in pieces]

    collected, left = asyncio.ensure_future(collect()), asyncio.ensure_future(disconnected(http))
    try:
        await asyncio.wait({collected, left}, return_when=asyncio.FIRST_COMPLETED)
        if not collected.done():
            raise ClientDisconnect
        texts = collected.result()
    finally:
        collected.cancel()
        left.cancel()
        cancel()
    counts = usage(len(request.prompt), request.answer.tokens)
    text = "".join(piece.text for piece in texts)
    return reply(Reply(question).completion(text, texts[-1].finish_reason or "", counts))


async def disconnected(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Server-sent events; however the sending ends, `cancel` is called."""

    def __init__(self, content: AsyncIterator[str], cancel: Callable[[], None]) -> None:
        super().__init__(
            content, headers={"cache-control": "no-cache"}, media_type="text/event-stream"
        )
        self.cancel = cancel

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.cancel()


async def events(
    question: Question, request: Request, pieces: AsyncIterator[Piece]
) -> AsyncIterator[str]:
    """The answer as it grows; an error in its middle is an event too, for the status has been sent."""
    of = Reply(question)
    yield event(of.chunk({"role": "assistant", "content": ""}))
    try:
        async for piece in pieces:
            if piece.text:
                yield event(of.chunk({"content": piece.text}))
            if piece.finish_reason:
                yield event(of.chunk({}, piece.finish_reason))
    except ApiError as error:
        yield event(error.body())
        return
    if question.include_usage:
        yield event(of.last_chunk(usage(len(request.prompt), request.answer.tokens)))
    yield "data: [DONE]\n\n"


def event(content: Json) -> str:
    return f"data: {json.dumps(content)}\n\n"
