"""Why a server cannot be reached, in a few words, whichever library was asked to reach it.

requests, urllib3, httpx, huggingface_hub and the trackers each wrap the error of the operating system in errors of
their own, so a message that quotes the outermost one quotes them all.
"""

import errno
import re
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

_NAME, _REFUSED, _LATE, _NO_ROUTE = (
    "name not known",
    "refused",
    "timed out",
    "no way to it in this network",
)
_CERTIFICATE, _TLS, _BROKE_OFF = (
    "its certificate is not trusted",
    "it does not speak TLS",
    "broke off",
)

# Classes of libraries that may not be installed, by name. An error of these has no more exact one inside.
_CLASSES = {
    "NameResolutionError": _NAME,
    "RemoteDisconnected": _BROKE_OFF,
    "RemoteProtocolError": _BROKE_OFF,
    "IncompleteRead": _BROKE_OFF,
    "IncompleteMessage": _BROKE_OFF,
}

# Texts of programs that pass on no exception: Weights & Biases' own process is written in Go.
_TEXTS = {
    "name or service not known|nodename nor servname|name resolution|no such host|getaddrinfo failed": _NAME,
    "connection refused|actively refused": _REFUSED,
    "timed out|timeout|deadline exceeded": _LATE,
    "network is unreachable|no route to host": _NO_ROUTE,
    "certificate verify failed|x509:": _CERTIFICATE,
    "connection reset|connection aborted|broken pipe": _BROKE_OFF,
}


def unreachable(error: BaseException, url: str = "") -> str | None:
    """Say `cannot reach HOST: refused`, or another reason; None for an error that is not of the network.

    Args:
        url: what was asked for, where the error itself does not tell.
    """
    links = list(_chain(error))
    if any(getattr(link, "response", None) is not None for link in links):  # there was an answer
        return None
    found = [_by_class(link) for link in links] + [_by_text(link) for link in links]
    reason = next((reason for reason in found if reason), None)
    if reason is None:
        return None
    through = (
        " through the proxy" if any(type(link).__name__ == "ProxyError" for link in links) else ""
    )
    asked = next((asked for link in links if (asked := _asked(link))), url)
    host = f"{host_of(asked) or 'the server'}{through}"
    return (
        f"the connection to {host} broke off"
        if reason == _BROKE_OFF
        else f"cannot reach {host}: {reason}"
    )


def host_of(url: str) -> str:
    """The host of an address, with its port if one is given, and without a name and password."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it was raised from or holds, from the outside to the inside."""
    waiting, seen = [error], set()
    while waiting:
        link = waiting.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        context = None if link.__suppress_context__ else link.__context__
        inside = (link.__cause__ or context, getattr(link, "reason", None), *link.args)
        waiting += [one for one in inside if isinstance(one, BaseException)]


def _by_class(error: BaseException) -> str | None:
    match error:
        case socket.gaierror():
            return _NAME
        case ConnectionRefusedError():
            return _REFUSED
        case TimeoutError():
            return _LATE
        case ssl.SSLCertVerificationError():
            return _CERTIFICATE
        case ssl.SSLError():
            return _TLS
        case ConnectionResetError() | ConnectionAbortedError() | BrokenPipeError():
            return _BROKE_OFF
        case OSError(errno=errno.ENETUNREACH | errno.EHOSTUNREACH):
            return _NO_ROUTE
    name = type(error).__name__
    return _LATE if name.endswith(("Timeout", "TimeoutError")) else _CLASSES.get(name)


def _by_text(error: BaseException) -> str | None:
    text = str(error)
    return next(
        (reason for pattern, reason in _TEXTS.items() if re.search(pattern, text, re.IGNORECASE)),
        None,
    )


def _asked(error: BaseException) -> str:
    """The address that was asked for, which differs from the one first asked where that sent us on."""
    try:
        return str(error.request.url)  # type: ignore[attr-defined]
    except (
        AttributeError,
        RuntimeError,
    ):  # httpx raises the latter where an error belongs to no request
        return ""
