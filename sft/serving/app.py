"""The web application: OpenAI's chat API, a page to try it, and what is said when something is wrong."""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from sft.serving.api import ApiError
from sft.serving.endpoints import Endpoints
from sft.serving.engine import Engine
from sft.serving.guard import Guard
from sft.serving.replies import reply

RETRY_AFTER = "1"  # seconds, when the queue is full
PAGE = Path(__file__).parent / "page"
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def make_app(engines: Mapping[str, Engine], max_tokens: int, host: str) -> Starlette:
    """The application.

    Args:
        engines: by the name that the model has in requests.
        max_tokens: the most tokens of an answer.
        host: the address that it listens at; of a loopback address only this machine's names are answered.
    """
    api = Endpoints(engines, max_tokens, int(time.time()))
    pages = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js"}
    files = [Route(path, partial(page, PAGE / name)) for path, name in pages.items()]
    routes = [
        Route("/v1/chat/completions", api.chat, methods=["POST"]),
        Route("/v1/models", api.models),
        Route("/v1/models/{name:path}", api.model),
        Route("/health", api.health),
    ]
    handlers: Mapping[Any, Any] = {
        ApiError: told,
        HTTPException: told_by_starlette,
        ClientDisconnect: gone,
        Exception: failed,
    }
    return Starlette(
        routes=files + routes,
        middleware=[Middleware(Guard, host=host)],
        exception_handlers=handlers,
        lifespan=api.lifespan,
    )


async def page(path: Path, _: Request) -> Response:
    return FileResponse(path, headers=HEADERS)


# Errors


async def told(_: Request, error: ApiError) -> Response:
    return reply(
        error.body(), error.status, {"retry-after": RETRY_AFTER} if error.status == 429 else None
    )


async def told_by_starlette(request: Request, error: HTTPException) -> Response:
    message = f"{request.method} {request.url.path}: {error.detail.lower()}"
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    return reply(
        ApiError(error.status_code, message, None, code).body(), error.status_code, error.headers
    )


async def gone(_: Request, __: ClientDisconnect) -> Response:
    return Response(status_code=400)  # which nobody reads


async def failed(_: Request, __: Exception) -> Response:
    return reply(
        ApiError(
            500, "an error of the server; its log says which", None, "error", "server_error"
        ).body(),
        500,
    )
