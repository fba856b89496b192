"""The web application: its routes, its page, and its answers to errors."""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from sft.serving.endpoints import Endpoints
from sft.serving.engine import Engine
from sft.serving.fields import ApiError
from sft.serving.guard import Access, Guard
from sft.serving.responses import json_response

PAGE = Path(__file__).parent / "page"
PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}

# When a caller should ask again if the queue is full, in seconds.
RETRY_AFTER = "1"


def make_app(
    engines: Mapping[str, Engine], max_tokens: int, access: Access, trim: bool = False
) -> Starlette:
    """Return the application.

    Args:
        engines: by the name that the model has in requests.
        max_tokens: the most tokens of an answer.
        access: who may ask.
        trim: leave out the oldest turns of a chat that does not fit the context.
    """
    api = Endpoints(engines, max_tokens, int(time.time()), trim)
    routes = [
        Route("/", partial(page, PAGE / "index.html")),
        Route("/page.css", partial(page, PAGE / "page.css")),
        Route("/page.js", partial(page, PAGE / "page.js")),
        Route("/v1/chat/completions", api.chat, methods=["POST"]),
        Route("/v1/completions", api.completions, methods=["POST"]),
        Route("/v1/models", api.models),
        Route("/v1/models/{name:path}", api.model),
        Route("/health", api.health),
    ]
    handlers: Mapping[Any, Any] = {
        ApiError: on_api_error,
        HTTPException: on_http_error,
        ClientDisconnect: on_disconnect,
        Exception: on_failure,
    }
    middleware = [Middleware(Guard, access=access)]
    if access.origins:
        # A browser shows an answer to another site's page only if the server allows it.
        cors = Middleware(
            CORSMiddleware,
            allow_origins=access.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
        )
        middleware.insert(0, cors)
    return Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers=handlers,
        lifespan=api.lifespan,
    )


async def page(path: Path, _: Request) -> Response:
    return FileResponse(path, headers=PAGE_HEADERS)


# Errors, all in OpenAI's form


async def on_api_error(_: Request, error: ApiError) -> Response:
    headers = {"retry-after": RETRY_AFTER} if error.status == 429 else None
    return json_response(error.body(), error.status, headers)


async def on_http_error(request: Request, error: HTTPException) -> Response:
    """Answer an error of Starlette's own, such as an unknown path."""
    message = f"{request.method} {request.url.path}: {error.detail.lower()}"
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    body = ApiError(error.status_code, message, None, code).body()
    return json_response(body, error.status_code, error.headers)


async def on_disconnect(_: Request, __: ClientDisconnect) -> Response:
    # Starlette wants a response, but the caller is gone.
    return Response(status_code=400)


async def on_failure(_: Request, __: Exception) -> Response:
    message = "an error of the server; its log says which"
    return json_response(ApiError(500, message, None, "error", "server_error").body(), 500)
