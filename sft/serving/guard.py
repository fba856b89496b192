"""Which HTTP requests are answered: none that a page of another site sends."""

import ipaddress
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from sft.serving.api import ApiError
from sft.serving.responses import json_response


class Guard:
    """Refuses the requests that a browser on this machine sends for another site's page.

    A request that names its origin (`Origin`) must come from this server's own page. If only this
    machine is served, the name it was sent to (`Host`) must be this machine's. That stops DNS
    rebinding, in which another site's name is made to point here.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self.app = app
        self.names = {"localhost", "127.0.0.1", "::1", host} if is_loopback(host) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (problem := self._problem(Request(scope))):
            error = ApiError(403, problem, None, "forbidden")
            await json_response(error.body(), error.status)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _problem(self, request: Request) -> str | None:
        host = request.headers.get("host", "")
        if self.names is not None and _hostname(host) not in self.names:
            return f"Host: {host!r} is not a name of this machine; ask at localhost"

        origin = request.headers.get("origin")
        if origin is not None and origin != f"{request.url.scheme}://{host}":
            return f"Origin: {origin!r} is another site"
        return None


def is_loopback(host: str) -> bool:
    """Whether an address to listen at can be reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _hostname(host: str) -> str | None:
    """Return the name in a Host header; None: it has none, or a malformed IPv6 address."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
