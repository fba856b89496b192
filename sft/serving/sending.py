"""Hands prompts to the engine, and sends the answers back: whole, or as they grow."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from sft.inference.stream import AnswerStream
from sft.serving.api import Request as AnyRequest
from sft.serving.engine import ClosingError, Engine, FullError, Generation, Piece
from sft.serving.fields import ApiError, Json, refuse
from sft.serving.responses import Answers, usage
from sft.serving.web import json_response

# A piece of an answer, and the answer's index.
Indexed = tuple[int, Piece]


async def answer(
    http: Request,
    request: AnyRequest,
    engine: Engine,
    prompts: list[list[int]],
    response: Answers,
    echoes: list[Piece] | None = None,
) -> Response:
    """Have the engine answer each prompt `n` times, and send the answers.

    Args:
        echoes: the first piece of each prompt's answers.
    """
    queue: asyncio.Queue[Indexed] = asyncio.Queue()
    take = from_thread(queue.put_nowait)
    generations: list[Generation] = []
    for prompt in prompts:
        for number in range(request.n):
            on_piece = partial(take, len(generations))
            generations.append(make_generation(request, engine, prompt, number, on_piece))

    for index in range(len(generations) if echoes else 0):
        assert echoes
        queue.put_nowait((index, echoes[index // request.n]))
    if request.max_tokens:
        submit(engine, generations)

    def cancel() -> None:
        for generation in generations:
            engine.cancel(generation)

    def count() -> Json:
        tokens = sum(generation.answer.tokens for generation in generations)
        return usage(sum(map(len, prompts)), tokens)

    pieces = read_pieces(queue, len(generations))
    if request.stream:
        return EventStream(events(response, pieces, count, len(generations)), cancel)
    answers = await whole_answers(http, pieces, len(generations), cancel)
    return json_response(response.whole(answers, count()))


def make_generation(
    request: AnyRequest,
    engine: Engine,
    prompt: list[int],
    number: int,
    on_piece: Callable[[Piece], None],
) -> Generation:
    """Return one answer that the engine shall give.

    Args:
        number: of the answer, among those to its prompt. Each draws with a seed of its own.
    """
    chat_model = engine.chat_model
    max_tokens = min(chat_model.context - len(prompt), request.max_tokens)
    stop = [*request.stop, *chat_model.checkpoint.ends]
    stream = AnswerStream(chat_model.tokenizer, max_tokens, stop)
    seed = (request.seed + number) % 2**63
    return Generation(prompt, stream, on_piece, request.sampling, seed)


def submit(engine: Engine, generations: list[Generation]) -> None:
    """Give prompts to the engine: all, or none.

    Raises:
        ApiError: the queue is full, or the server is shutting down.
    """
    most = max(1, engine.slots + engine.queue)
    if len(generations) > most:
        refuse("n", f"{len(generations)} answers in all; expected at most {most} for one request")
    try:
        for generation in generations:
            engine.submit(generation)
    except FullError:
        for generation in generations:
            engine.cancel(generation)
        message = (
            f"{engine.slots} questions are being answered and {engine.queue} wait; ask again later"
        )
        raise ApiError(429, message, None, "queue_full", "rate_limit_error") from None
    except ClosingError:
        message = "the server is shutting down"
        raise ApiError(503, message, None, "shutting_down", "server_error") from None


def from_thread(function: Callable[[Indexed], None]) -> Callable[[int, Piece], None]:
    """Make a function of the event loop callable from another thread."""
    loop = asyncio.get_running_loop()

    def call(index: int, piece: Piece) -> None:
        # A closed loop raises RuntimeError: the server ended without waiting for this answer.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(function, (index, piece))

    return call


async def read_pieces(queue: asyncio.Queue[Indexed], answers: int) -> AsyncIterator[Indexed]:
    """Yield all pieces of all answers, each with the answer's index.

    Raises:
        ApiError: the model failed.
    """
    while answers:
        index, piece = await queue.get()
        if piece.finish_reason == "failed":
            message = "the model failed; the server's log says how"
            raise ApiError(500, message, None, "model_failed", "server_error")
        yield index, piece
        if piece.finish_reason:
            answers -= 1


async def whole_answers(
    http: Request, pieces: AsyncIterator[Indexed], answers: int, cancel: Callable[[], None]
) -> list[Piece]:
    """Return each answer as one piece.

    Raises:
        ClientDisconnect: the caller went away, and the answers were cancelled.
        ApiError: the model failed.
    """

    async def collect() -> list[list[Piece]]:
        received: list[list[Piece]] = [[] for _ in range(answers)]
        async for index, piece in pieces:
            received[index].append(piece)
        return received

    # Whichever comes first: the end of the answers, or the caller's.
    collected = asyncio.ensure_future(collect())
    gone = asyncio.ensure_future(disconnected(http))
    try:
        await asyncio.wait({collected, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not collected.done():
            raise ClientDisconnect
        return [joined(received) for received in collected.result()]
    finally:
        collected.cancel()
        gone.cancel()
        cancel()


def joined(pieces: list[Piece]) -> Piece:
    text = "".join(piece.text for piece in pieces)
    tokens = [token for piece in pieces for token in piece.tokens]
    return Piece(text, pieces[-1].finish_reason, tuple(tokens))


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
    response: Answers, pieces: AsyncIterator[Indexed], count: Callable[[], Json], answers: int
) -> AsyncIterator[str]:
    """Yield the answers as they grow, as server-sent events.

    The status 200 has been sent by then. So an error in the middle is an event, too.
    """
    for index in range(answers):
        if first := response.first(index):
            yield event(response.chunk(first))
    try:
        async for index, piece in pieces:
            # The reason has a chunk of its own, as some clients read no text from that chunk.
            if piece.text or piece.tokens:
                yield event(
                    response.chunk(response.part(index, piece._replace(finish_reason=None)))
                )
            if piece.finish_reason:
                end = Piece("", piece.finish_reason)
                yield event(response.chunk(response.part(index, end)))
    except ApiError as error:
        yield event(error.body())
        return

    if response.request.include_usage:
        yield event(response.usage_chunk(count()))
    yield "data: [DONE]\n\n"


def event(content: Json) -> str:
    return f"data: {json.dumps(content)}\n\n"
