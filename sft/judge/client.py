"""JSON over HTTP, with a server that may be busy, slow or broken."""

import ipaddress
import json
import time
from collections.abc import Callable, Iterator
from time import sleep
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError

from sft.network import unreachable

T = TypeVar("T")

# Seconds: the most for a connection, and the least for a line of a stream.
CONNECT = 10.0
LINE = 600.0

# Seconds: the first and the longest pause before a request is sent again. Each doubles the last.
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 8.0

# The exceptions of code that reads JSON of an unexpected shape.
BAD = (LookupError, TypeError, ValueError, RecursionError)


class NoReplyError(Exception):
    """Why a request has no reply.

    Args:
        reason: is cut to one line.
        status: of the judgement that records it.
        code: of HTTP, if the server sent one.
        passing: the fault may be gone the next time.
    """

    def __init__(
        self, reason: str, status: str = "error", code: int | None = None, passing: bool = False
    ) -> None:
        super().__init__(one_line(reason))
        self.status = status
        self.code = code
        self.passing = passing


def one_line(text: str, length: int = 300) -> str:
    """Return the beginning of a text from outside, as one line that can be written to a file."""
    return " ".join(text[: 2 * length].split())[:length].encode("utf-8", "replace").decode()


class Client:
    """One server.

    Args:
        timeout: seconds to wait for a whole reply.
        retries: how often a request is sent again after a passing fault.
        key: is sent as a bearer token, and replaced by `(key)` in all that the server says.
    """

    def __init__(self, url: str, timeout: float, retries: int, key: str = "") -> None:
        self.url = url.rstrip("/")
        self.timeout = timeout
        self.retries = retries
        self._key = key

    def call(
        self,
        method: str,
        path: str,
        body: Any,
        read: Callable[[Any], T],
        retries: int | None = None,
        final: Callable[[NoReplyError], bool] = lambda fault: False,
    ) -> T:
        """Return what `read` takes from the JSON of the reply.

        Args:
            final: tells whether a fault would come again, although it looks temporary.

        Raises:
            NoReplyError: there is no reply, or `read` raised this error or one of BAD.
        """
        for number in range(self.retries if retries is None else retries):
            try:
                return self._once(method, path, body, read)
            except NoReplyError as fault:
                if not fault.passing or final(fault):
                    raise
            sleep(min(FIRST_PAUSE * 2.0**number, LONGEST_PAUSE))
        return self._once(method, path, body, read)

    def _once(self, method: str, path: str, body: Any, read: Callable[[Any], T]) -> T:
        deadline = time.monotonic() + self.timeout
        with self._open(method, path, body, self.timeout) as response:
            text = self._text(b"".join(self._pieces(response, deadline)))
        _check_code(response.status_code, text)

        try:
            values = json.loads(text)
            if isinstance(values, dict) and values.get("error"):
                reason = f"the server replied with an error: {_message(values)}"
                raise NoReplyError(reason, passing=True)
            return read(values)
        except BAD as error:
            reason = f"a reply of another kind than expected: {text or '(nothing)'}"
            raise NoReplyError(reason, passing=True) from error

    def lines(self, path: str, body: Any) -> Iterator[dict[str, Any]]:
        """Yield the objects of a reply that comes line by line.

        Raises:
            NoReplyError: the server refuses, or the reply breaks off.
        """
        with self._open("POST", path, body, max(self.timeout, LINE)) as response:
            try:
                if response.status_code != 200:
                    _check_code(response.status_code, self._text(response.content))
                for line in response.iter_lines():
                    values = json.loads(self._text(line) or "{}")
                    if values.get("error"):
                        raise NoReplyError(_message(values))
                    yield values
            except (requests.RequestException, AttributeError, ValueError, RecursionError) as error:
                reason = f"the reply broke off: {unreachable(error, self.url) or error}"
                raise NoReplyError(reason) from error

    def _open(self, method: str, path: str, body: Any, wait: float) -> requests.Response:
        """Return the response to a request, of which only the head has been read."""
        session = requests.Session()

        # No proxy stands between this machine and itself.
        session.trust_env = not is_local(self.url)
        try:
            return session.request(
                method,
                self.url + path,
                json=body,
                headers={"Connection": "close"},
                auth=self._authorized,
                timeout=(min(CONNECT, self.timeout), wait),
                stream=True,
                allow_redirects=False,
            )
        except requests.ReadTimeout as error:
            raise self._late() from error
        except requests.RequestException as error:
            reason = unreachable(error, self.url) or f"no connection: {error}"
            raise NoReplyError(reason, passing=True) from error
        except (ValueError, HTTPError) as error:
            raise NoReplyError(f"not an address: {error}") from error

    def _pieces(self, response: requests.Response, deadline: float) -> Iterator[bytes]:
        """Yield the body, in pieces so small that a trickle meets the deadline, too."""
        try:
            for piece in response.iter_content(16):
                yield piece
                if time.monotonic() > deadline:
                    raise self._late()
        except requests.RequestException as error:
            if time.monotonic() > deadline:
                raise self._late() from error
            reason = unreachable(error, self.url) or f"the connection broke off: {error}"
            raise NoReplyError(reason, passing=True) from error

    def _late(self) -> NoReplyError:
        return NoReplyError(f"no reply within {self.timeout:g} s", "timeout")

    def _authorized(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the key. Without this hook, requests would look for a password in ~/.netrc."""
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _text(self, content: bytes) -> str:
        text = content.decode("utf-8", "replace")

        # A shorter key is a placeholder, whose letters may stand anywhere.
        return text.replace(self._key, "(key)") if len(self._key) >= 8 else text


def is_local(url: str) -> bool:
    """Return whether the address is this machine's."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def _check_code(code: int, text: str) -> None:
    """Raise NoReplyError for any code of HTTP but 200."""
    if code == 200:
        return
    try:
        reason = _message(json.loads(text))
    except BAD:
        reason = text
    passing = code == 429 or code >= 500
    raise NoReplyError(f"HTTP {code}: {reason or '(nothing)'}", code=code, passing=passing)


def _message(values: Any) -> str:
    """Return the text of an error.

    Servers write {"error": "..."}, {"error": {"message": "..."}} or {"detail": "..."}.
    """
    error = values.get("error") or values.get("detail") or values
    return str(error.get("message", error) if isinstance(error, dict) else error)
