"""JSON over HTTP, to a server that may be busy, slow or broken: what it replied, or why there is no reply."""

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
# Seconds: the most for a connection, the least for a line of a stream, the pauses before a request is sent again.
CONNECT, LINE, FIRST_PAUSE, LONGEST_PAUSE = 10.0, 600.0, 0.5, 8.0
BAD = (
    LookupError,
    TypeError,
    ValueError,
    RecursionError,
)  # what reading JSON of another kind than expected raises


class NoReplyError(Exception):
    """Why a request has no reply.

    Args:
        reason: in a line.
        status: what a judgement's record keeps.
        code: of HTTP, if it came that far.
        passing: it may be gone the next time.
    """

    def __init__(
        self, reason: str, status: str = "error", code: int | None = None, passing: bool = False
    ) -> None:
        super().__init__(one_line(reason))
        self.status, self.code, self.passing = status, code, passing


def one_line(text: str, length: int = 300) -> str:
    """The beginning of a text from outside, as text that can be written to a file."""
    return " ".join(text[: 2 * length].split())[:length].encode("utf-8", "replace").decode()


class Client:
    """One server.

    Args:
        timeout: seconds to wait for a whole reply.
        retries: how often a request is sent again after a passing fault.
        key: sent as a bearer token, and blotted out of whatever the server says.
    """

    def __init__(self, url: str, timeout: float, retries: int, key: str = "") -> None:
        self.url, self.timeout, self.retries, self._key = url.rstrip("/"), timeout, retries, key

    def call(
        self,
        method: str,
        path: str,
        body: Any,
        read: Callable[[Any], T],
        retries: int | None = None,
        final: Callable[[NoReplyError], bool] = lambda fault: False,
    ) -> T:
        """What `read` takes from the JSON of the reply.

        Args:
            final: whether a fault would come again, though it looks passing.

        Raises:
            NoReplyError: there is no reply, or `read` raised one, or one of BAD.
        """
        left = self.retries if retries is None else retries
        for pause in [min(FIRST_PAUSE * 2.0**number, LONGEST_PAUSE) for number in range(left)]:
            try:
                return self._once(method, path, body, read)
            except NoReplyError as fault:
                if not fault.passing or final(fault):
                    raise
                sleep(pause)
        return self._once(method, path, body, read)

    def _once(self, method: str, path: str, body: Any, read: Callable[[Any], T]) -> T:
        deadline = time.monotonic() + self.timeout
        with self._open(method, path, body, self.timeout) as response:
            text = self._text(b"".join(self._pieces(response, deadline)))
        _check_code(response.status_code, text)
        try:
            values = json.loads(text)
            if isinstance(values, dict) and values.get("error"):
                raise NoReplyError(
                    f"the server replied with an error: {_message(values)}", passing=True
                )
            return read(values)
        except BAD as error:
            raise NoReplyError(
                f"a reply of another kind than expected: {text or '(nothing)'}", passing=True
            ) from error

    def lines(self, path: str, body: Any) -> Iterator[dict[str, Any]]:
        """The objects of a reply that comes line by line.

        Raises:
            NoReplyError: it does not, or it breaks off.
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
                raise NoReplyError(
                    f"the reply broke off: {unreachable(error, self.url) or error}"
                ) from error

    def _open(self, method: str, path: str, body: Any, wait: float) -> requests.Response:
        """The reply to a request, of which only the head has been read."""
        session = requests.Session()
        session.trust_env = not is_local(
            self.url
        )  # no proxy stands between this machine and itself
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
            raise NoReplyError(
                unreachable(error, self.url) or f"no connection: {error}", passing=True
            ) from error
        except (ValueError, HTTPError) as error:
            raise NoReplyError(f"not an address: {error}") from error

    def _pieces(self, response: requests.Response, deadline: float) -> Iterator[bytes]:
        try:
            for piece in response.iter_content(16):  # so few bytes, that a trickle is noticed
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
        """Called for every request: without this, requests would look for a password in ~/.netrc."""
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _text(self, content: bytes) -> str:
        text = content.decode("utf-8", "replace")
        return (
            text.replace(self._key, "(key)") if len(self._key) >= 8 else text
        )  # shorter ones are placeholders


def is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def _check_code(code: int, text: str) -> None:
    if code == 200:
        return
    try:
        said = _message(json.loads(text))
    except BAD:
        said = text
    raise NoReplyError(
        f"HTTP {code}: {said or '(nothing)'}", code=code, passing=code == 429 or code >= 500
    )


def _message(values: Any) -> str:
    """What an error says, in the shapes it comes in: {"error": "…"}, {"error": {"message": "…"}}, {"detail": "…"}."""
    error = values.get("error") or values.get("detail") or values
    return str(error.get("message", error) if isinstance(error, dict) else error)
