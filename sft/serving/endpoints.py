"""The endpoints of OpenAI's API: from HTTP to the engine and back."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from sft.errors import InputError
from sft.inference.models import ChatModel, TooLongError
from sft.inference.stream import AnswerStream
from sft.serving.api import ApiError, ChatRequest, Json, earlier_turns, parse_request
from sft.serving.engine import ClosingError, Engine, FullError, Generation, Piece
from sft.serving.responses import ChatResponse, json_response, usage

# In bytes. No model's context holds as much text.
BODY_LIMIT = 1 << 18


@dataclass(frozen=True)
class Endpoints:
    """One method for each route.

    Args:
        engines: by the name that the model has in requests.
        max_tokens: the most tokens of an answer.
        created: the time at which the models were loaded, in seconds since 1970.
    """

    engines: Mapping[str, Engine]
    max_tokens: int
    created: int

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        for engine in self.engines.values():
            await run_in_threadpool(engine.stop)

    async def health(self, _: Request) -> Response:
        loads = {}
        for name, engine in self.engines.items():
            running, waiting = engine.load
            loads[name] = {"running": running, "waiting": waiting}
        return json_response({"status": "ok", "models": loads})

    async def models(self, _: Request) -> Response:
        models = [self._describe(name) for name in self.engines]
        return json_response({"object": "list", "data": models})

    async def model(self, http: Request) -> Response:
        name = http.path_params["name"]
        self._engine(name)
        return json_response(self._describe(name))

    def _describe(self, name: str) -> Json:
        return {"id": name, "object": "model", "created": self.created, "owned_by": "sft"}

    def _engine(self, name: str) -> Engine:
        if name not in self.engines:
            message = f"model: {name[:80]!r} is not here; there are {', '.join(self.engines)}"
            raise ApiError(404, message, "model", "model_not_found")
        return self.engines[name]

    async def chat(self, http: Request) -> Response:
        request = parse_request(await read_body(http), self.max_tokens)
        engine = self._engine(request.model)

        # Tokenizing takes a while for a long text, so it leaves the event loop.
        queue: asyncio.Queue[Piece] = asyncio.Queue()
        on_piece = from_thread(queue.put_nowait)
        generation = await run_in_threadpool(make_generation, request, engine.chat_model, on_piece)

        submit(engine, generation)
        pieces = read_pieces(queue)
        cancel = partial(engine.cancel, generation)
        if request.stream:
            return EventStream(events(request, generation, pieces), cancel)
        return await whole_answer(http, request, generation, pieces, cancel)


async def read_body(http: Request) -> bytes:
    body = bytearray()
    async for chunk in http.stream():
        body += chunk
        if len(body) > BODY_LIMIT:
            message = f"the body: expected at most {BODY_LIMIT:,} bytes"
            raise ApiError(413, message, None, "request_too_large")
    return bytes(body)


def make_generation(
    request: ChatRequest, chat_model: ChatModel, on_piece: Callable[[Piece], None]
) -> Generation:
    """Turn a request into a prompt for the engine.

    Raises:
        ApiError: the prompt cannot be made, or leaves no room for an answer.
    """
    earlier = earlier_turns(request) if chat_model.takes_earlier_turns else []
    try:
        prompt = chat_model.prompt(request.instruction, request.input, earlier)
    except TooLongError as error:
        raise ApiError(400, f"messages: {error}", "messages", "context_length_exceeded") from error
    except InputError as error:
        raise ApiError(400, f"messages: {error}", "messages", "invalid_value") from error

    max_tokens = min(chat_model.context - len(prompt), request.max_tokens)
    answer = AnswerStream(chat_model.tokenizer, max_tokens, request.stop)
    return Generation(prompt, answer, on_piece, request.sampling, request.seed)


def submit(engine: Engine, generation: Generation) -> None:
    """Give a prompt to the engine.

    Raises:
        ApiError: the queue is full, or the server is shutting down.
    """
    try:
        engine.submit(generation)
    except FullError:
        message = (
            f"{engine.slots} questions are being answered and {engine.queue} wait; ask again later"
        )
        raise ApiError(429, message, None, "queue_full", "rate_limit_error") from None
    except ClosingError:
        message = "the server is shutting down"
        raise ApiError(503, message, None, "shutting_down", "server_error") from None


def from_thread(function: Callable[[Piece], None]) -> Callable[[Piece], None]:
    """Make a function of the event loop callable from another thread."""
    loop = asyncio.get_running_loop()

    def call(piece: Piece) -> None:
        # A closed loop raises RuntimeError: the server ended without waiting for this answer.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(function, piece)

    return call


async def read_pieces(queue: asyncio.Queue[Piece]) -> AsyncIterator[Piece]:
    """Yield all pieces of an answer.

    Raises:
        ApiError: the model failed.
    """
    while True:
        piece = await queue.get()
        if piece.finish_reason == "failed":
            message = "the model failed; the server's log says how"
            raise ApiError(500, message, None, "model_failed", "server_error")
        yield piece
        if piece.finish_reason:
            return


async def whole_answer(
    http: Request,
    request: ChatRequest,
    generation: Generation,
    pieces: AsyncIterator[Piece],
    cancel: Callable[[], None],
) -> Response:
    """Return the answer in one response.

    Raises:
        ClientDisconnect: the caller went away, and the answer was cancelled.
        ApiError: the model failed.
    """

    async def collect() -> list[Piece]:
        return [piece async for piece in pieces]

    # Whichever comes first: the end of the answer, or the caller's.
    collected = asyncio.ensure_future(collect())
    gone = asyncio.ensure_future(disconnected(http))
    try:
        await asyncio.wait({collected, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not collected.done():
            raise ClientDisconnect
        received = collected.result()
    finally:
        collected.cancel()
        gone.cancel()
        cancel()

    text = "".join(piece.text for piece in received)
    finish_reason = received[-1].finish_reason or ""
    counts = usage(len(generation.prompt), generation.answer.tokens)
    return json_response(ChatResponse(request).completion(text, finish_reason, counts))


async def disconnected(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Server-sent events. `cancel` is called in the end, however the sending ended."""

    def __init__(self, content: AsyncIterator[str], cancel: Callable[[], None]) -> None:
        headers = {"cache-control": "no-cache"}
        super().__init__(content, headers=headers, media_type="text/event-stream")
        self.cancel = cancel

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.cancel()


async def events(
    request: ChatRequest, generation: Generation, pieces: AsyncIterator[Piece]
) -> AsyncIterator[str]:
    """Yield the answer as it grows, as server-sent events.

    The status 200 has been sent by then. So an error in the middle is an event, too.
    """
    response = ChatResponse(request)
    yield event(response.chunk({"role": "assistant", "content": ""}))
    try:
        async for piece in pieces:
            if piece.text:
                yield event(response.chunk({"content": piece.text}))
            if piece.finish_reason:
                yield event(response.chunk({}, piece.finish_reason))
    except ApiError as error:
        yield event(error.body())
        return

    if request.include_usage:
        counts = usage(len(generation.prompt), generation.answer.tokens)
        yield event(response.usage_chunk(counts))
    yield "data: [DONE]\n\n"


def event(content: Json) -> str:
    return f"data: {json.dumps(content)}\n\n"
