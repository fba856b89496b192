"""Who may ask."""

import ipaddress
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from sft.serving.api import ApiError
from sft.serving.replies import reply


class Guard:
    """Keeps out the pages of other sites, which a browser on this machine would let talk to it: a request that says
    where it comes from (Origin) must come from here, and if only this machine is served, the name that it was sent to
    (Host) must be this machine's, which stops other sites' names from being turned to it (DNS rebinding)."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        self.app = app
        self.names = {"localhost", "127.0.0.1", "::1", host} if is_loopback(host) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (problem := self._problem(Request(scope))):
            error = ApiError(403, problem, None, "forbidden")
            await reply(error.body(), error.status)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _problem(self, request: Request) -> str | None:
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if self.names is not None and _hostname(host) not in self.names:
            return f"Host: {host!r} is not a name of this machine; ask at localhost"
        if origin is not None and origin != f"{request.url.scheme}://{host}":
            return f"Origin: {origin!r} is another site"
        return None


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:  # of an IPv6 address that is none
        return None
