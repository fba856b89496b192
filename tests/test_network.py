"""Errors of the network become a host and a reason, whichever library raised them."""

import errno
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
import requests

from sft.network import host_of, unreachable

LIBRARIES: dict[str, Any] = {"requests": requests, "httpx2": httpx2}


@pytest.fixture(params=LIBRARIES)
def told(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], str | None]:
    """Return the function that reports why a library cannot get an address."""
    for name in (
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "https_proxy",
        "ALL_PROXY",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    library = LIBRARIES[request.param]

    def get(url: str) -> str | None:
        with pytest.raises((OSError, httpx2.HTTPError)) as error:
            library.get(url, timeout=0.2)
        return unreachable(error.value)

    return get


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A port that accepts connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_a_closed_port_refuses(told: Callable[[str], str | None]) -> None:
    assert told("http://me:secret@127.0.0.1:9/x") == "cannot reach 127.0.0.1:9: refused"


def test_an_unknown_name_is_named(told: Callable[[str], str | None]) -> None:
    assert told("http://nowhere.invalid/x") == "cannot reach nowhere.invalid: name not known"


def test_a_silent_server_times_out(
    told: Callable[[str], str | None], listener: socket.socket
) -> None:
    host = f"127.0.0.1:{listener.getsockname()[1]}"
    assert told(f"http://{host}/x") == f"cannot reach {host}: timed out"


def test_a_server_that_hangs_up_broke_off(
    told: Callable[[str], str | None], listener: socket.socket
) -> None:
    def hang_up() -> None:
        connection, _ = listener.accept()
        connection.recv(1 << 16)
        connection.close()

    threading.Thread(target=hang_up, daemon=True).start()
    host = f"127.0.0.1:{listener.getsockname()[1]}"
    assert told(f"http://{host}/x") == f"the connection to {host} broke off"


def test_a_missing_proxy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(requests.RequestException) as error:
        requests.get("http://there.example/x", proxies={"http": "http://127.0.0.1:9"}, timeout=1)
    assert unreachable(error.value) == "cannot reach there.example through the proxy: refused"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH)),
            "no route to it from this network",
        ),
        (ssl.SSLCertVerificationError("self-signed certificate"), "its certificate is not trusted"),
        (ssl.SSLError("wrong version number"), "it does not speak TLS"),
        (RuntimeError("dial tcp: lookup api.wandb.ai: no such host"), "name not known"),
        (RuntimeError("Post: dial tcp 1.2.3.4:443: connect: connection refused"), "refused"),
        (RuntimeError("Post: net/http: request canceled (Client.Timeout exceeded)"), "timed out"),
    ],
)
def test_the_reason_is_found_by_class_or_text(error: Exception, reason: str) -> None:
    assert unreachable(error, "https://there:8080/x") == f"cannot reach there:8080: {reason}"
    assert unreachable(error) == f"cannot reach the server: {reason}"


def test_a_wrapped_error_is_found_unless_it_is_suppressed() -> None:
    inner = ConnectionRefusedError(errno.ECONNREFUSED, "x")
    for outer in (
        RuntimeError("the client", inner),
        ExceptionGroup("several", [ValueError(), inner]),
    ):
        outer.__cause__ = outer if isinstance(outer, RuntimeError) else inner
        assert unreachable(outer) == "cannot reach the server: refused"

    hidden = ValueError("of another matter")
    hidden.__context__ = inner
    assert unreachable(hidden) == "cannot reach the server: refused"
    hidden.__suppress_context__ = True  # raised `from None`
    assert unreachable(hidden) is None


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), FileNotFoundError(), KeyError("x")]
)
def test_another_error_is_not_taken_for_one_of_the_network(error: Exception) -> None:
    assert unreachable(error) is None


def test_a_server_that_answers_was_reached() -> None:
    response = requests.Response()
    response.status_code = 504
    response.reason = "Gateway Timeout"
    with pytest.raises(requests.HTTPError) as error:
        response.raise_for_status()
    assert unreachable(error.value) is None


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://me:x@[::1]:80/a@b", "[::1]:80"),
        ("http://a.b", "a.b"),
        ("", ""),
        ("sqlite:///a.db", ""),
    ],
)
def test_a_host_keeps_its_port_and_loses_its_password(url: str, host: str) -> None:
    assert host_of(url) == host
