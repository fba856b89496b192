"""Parts that the server and the voting page share: bodies, JSON, files, and answers to errors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response

from sft.serving.fields import ApiError, Json

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

# In bytes. No model's context holds as much text.
BODY_LIMIT = 1 << 18

# When a caller should ask again if the queue is full, in seconds.
RETRY_AFTER = "1"


def json_response(
    content: Json, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    # Starlette's own JSONResponse fails on half a surrogate pair. json.dumps keeps it escaped.
    return Response(json.dumps(content), status, headers, "application/json")


async def read_body(http: Request) -> bytes:
    body = bytearray()
    async for chunk in http.stream():
        body += chunk
        if len(body) > BODY_LIMIT:
            message = f"the body: expected at most {BODY_LIMIT:,} bytes"
            raise ApiError(413, message, None, "request_too_large")
    return bytes(body)


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


HANDLERS: Mapping[Any, Any] = {
    ApiError: on_api_error,
    HTTPException: on_http_error,
    ClientDisconnect: on_disconnect,
    Exception: on_failure,
}
