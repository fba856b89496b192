"""The endpoints of OpenAI's API: from HTTP to the engine and back."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from sft.errors import InputError
from sft.gpt2.tokenizer import decode
from sft.inference.models import ChatModel, TooLongError
from sft.inference.stream import FinishReason
from sft.serving.api import ChatRequest, TextRequest, earlier_turns, parse_chat, parse_text
from sft.serving.engine import Engine, Piece
from sft.serving.fields import ApiError, Json, refuse
from sft.serving.responses import ChatAnswers, TextAnswers
from sft.serving.sending import answer
from sft.serving.web import json_response, read_body


@dataclass(frozen=True)
class Endpoints:
    """One method for each route.

    Args:
        engines: by the name that the model has in requests.
        max_tokens: the most tokens of an answer.
        created: the time at which the models were loaded, in seconds since 1970.
        trim: the oldest turns of a chat are left out if they do not fit the context.
    """

    engines: Mapping[str, Engine]
    max_tokens: int
    created: int
    trim: bool = False

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
        conversations = self.engines[name].chat_model.takes_earlier_turns
        about = {"id": name, "object": "model", "created": self.created, "owned_by": "sft"}
        return about | {"conversations": conversations}

    def _engine(self, name: str) -> Engine:
        if name not in self.engines:
            message = f"model: {name[:80]!r} is not here; there are {', '.join(self.engines)}"
            raise ApiError(404, message, "model", "model_not_found")
        return self.engines[name]

    async def chat(self, http: Request) -> Response:
        request = parse_chat(await read_body(http), self.max_tokens)
        engine = self._engine(request.model)
        response = ChatAnswers(request, engine.chat_model.tokenizer)

        # Tokenizing takes a while for a long text, so it leaves the event loop.
        prompt = await run_in_threadpool(chat_prompt, request, engine.chat_model, self.trim)
        return await answer(http, request, engine, [prompt], response)

    async def completions(self, http: Request) -> Response:
        request = parse_text(await read_body(http), self.max_tokens)
        engine = self._engine(request.model)
        response = TextAnswers(request, engine.chat_model.tokenizer)
        prompts = await run_in_threadpool(text_prompts, request, engine.chat_model)

        # With `echo`, the prompt is the first piece of each of its answers.
        echoes = None
        if request.echo:
            echoes = await run_in_threadpool(echoed, request, engine, prompts)
        return await answer(http, request, engine, prompts, response, echoes)


# Prompts


def chat_prompt(request: ChatRequest, chat_model: ChatModel, trim: bool = False) -> list[int]:
    """Return the token ids of a chat's prompt.

    Args:
        trim: leave out the oldest turns if they do not fit.

    Raises:
        ApiError: the prompt cannot be made, or leaves no room for an answer.
    """
    earlier = earlier_turns(request, chat_model.takes_earlier_turns)
    instruction = request.instruction
    try:
        if not trim:
            return chat_model.prompt(instruction, request.input, earlier)
        prompt, _ = chat_model.prompt_that_fits(
            instruction, request.input, earlier, request.max_tokens
        )
        return prompt
    except TooLongError as error:
        raise ApiError(400, f"messages: {error}", "messages", "context_length_exceeded") from error
    except InputError as error:
        raise ApiError(400, f"messages: {error}", "messages", "invalid_value") from error


def text_prompts(request: TextRequest, chat_model: ChatModel) -> list[list[int]]:
    """Return the token ids of plain texts, without a template.

    Raises:
        ApiError: an id is none of the tokenizer's, or a prompt leaves no room for an answer.
    """
    tokenizer = chat_model.tokenizer
    prompts = []
    for prompt in request.prompts:
        # As OpenAI's, an empty text is what stands after the end of another.
        ids = tokenizer.encode_ordinary(prompt) if isinstance(prompt, str) else prompt
        ids = ids or [tokenizer.eot_token]
        if strange := [id for id in ids if not 0 <= id < tokenizer.n_vocab]:
            most = tokenizer.n_vocab - 1
            refuse("prompt", f"{strange[0]} is not a token id; expected 0 to {most}")
        if len(ids) + min(1, request.max_tokens) > chat_model.context:
            problem = (
                f"{len(ids)} tokens leave no room in the model's context of {chat_model.context}"
            )
            refuse("prompt", problem, "context_length_exceeded")
        prompts.append(ids)
    return prompts


def echoed(request: TextRequest, engine: Engine, prompts: list[list[int]]) -> list[Piece]:
    """Return each prompt as the first piece of its answer, with its log-probabilities if wanted."""
    count = request.sampling.logprobs
    pieces = []
    for prompt in prompts:
        scored = () if count is None else engine.score(prompt, count)
        reason: FinishReason | None = None if request.max_tokens else "length"
        pieces.append(Piece(decode(engine.chat_model.tokenizer, prompt), reason, scored))
    return pieces
