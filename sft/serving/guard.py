"""The guard of HTTP requests: it refuses those of other sites' pages, and those without the key."""

import ipaddress
import secrets
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from sft.serving.fields import ApiError
from sft.serving.web import json_response


@dataclass(frozen=True)
class Access:
    """The rules for who may send requests.

    Attributes:
        host: the address that the server listens at.
        origins: other sites whose pages may ask; `*`: those of every site.
        hosts: other names that the server answers to.
        key: what every request to the API must carry; None: none.
    """

    host: str
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    key: str | None = None


class Guard:
    """Refuses the requests that a browser on this machine sends for another site's page.

    A request that names its origin (`Origin`) must come from this server's own page, or from one
    that `access` lets in. If only this machine is served, the name it was sent to (`Host`) must be
    this machine's, or one of `access`. That stops DNS rebinding, in which another site's name is
    made to point here.

    If there is a key, requests to the API must carry it, as those to OpenAI do.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self.access = access
        self.names = None
        if is_loopback(access.host):
            self.names = {"localhost", "127.0.0.1", "::1", access.host, *access.hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._error(Request(scope)) if scope["type"] == "http" else None
        if error:
            await json_response(error.body(), error.status)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _error(self, request: Request) -> ApiError | None:
        if problem := self._problem(request):
            return ApiError(403, problem, None, "forbidden")
        if self._lacks_key(request):
            message = "the server asks for a key: Authorization: Bearer KEY"
            return ApiError(401, message, None, "invalid_api_key", "authentication_error")
        return None

    def _problem(self, request: Request) -> str | None:
        host = request.headers.get("host", "")
        if self.names is not None and _hostname(host) not in self.names:
            return (
                f"Host: {host!r} is not a name of this machine; ask at localhost, or start the "
                "server with --allow-host NAME"
            )

        origin = request.headers.get("origin")
        own = (None, f"{request.url.scheme}://{host}", *self.access.origins)
        if origin not in own and "*" not in self.access.origins:
            return f"Origin: {origin!r} is another site; --allow-origin lets its pages ask"
        return None

    def _lacks_key(self, request: Request) -> bool:
        # A browser asks whether it may send the key (OPTIONS) without the key.
        is_api = request.url.path.startswith("/v1/") and request.method != "OPTIONS"
        if self.access.key is None or not is_api:
            return False
        expected = f"Bearer {self.access.key}".encode()
        given = request.headers.get("authorization", "").encode("latin-1")
        return not secrets.compare_digest(given, expected)


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
