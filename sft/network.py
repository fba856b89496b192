"""The reason why a server cannot be reached, in a few words, for any library.

requests, urllib3, httpx, huggingface_hub and the trackers each wrap the error of the operating
system in errors of their own. A message that quotes the outermost error would quote them all.
"""

import errno
import re
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

_NAME = "name not known"
_REFUSED = "refused"
_LATE = "timed out"
_NO_ROUTE = "no route to it from this network"
_CERTIFICATE = "its certificate is not trusted"
_TLS = "it does not speak TLS"
_BROKE_OFF = "broke off"

# Classes of libraries that may not be installed, by name. They wrap no error that says more.
_CLASSES = {
    "NameResolutionError": _NAME,
    "RemoteDisconnected": _BROKE_OFF,
    "RemoteProtocolError": _BROKE_OFF,
    "IncompleteRead": _BROKE_OFF,
    "IncompleteMessage": _BROKE_OFF,
}

# Patterns of texts, for programs that pass on no exception. Weights & Biases has a process of its
# own, which is written in Go.
_TEXTS = {
    "name or service not known|nodename nor servname|name resolution": _NAME,
    "no such host|getaddrinfo failed": _NAME,
    "connection refused|actively refused": _REFUSED,
    "timed out|timeout|deadline exceeded": _LATE,
    "network is unreachable|no route to host": _NO_ROUTE,
    "certificate verify failed|x509:": _CERTIFICATE,
    "connection reset|connection aborted|broken pipe": _BROKE_OFF,
}


def unreachable(error: BaseException, url: str = "") -> str | None:
    """Return `cannot reach HOST: refused`, or another reason; None: not an error of the network.

    Args:
        url: the address, in case the error does not know it.
    """
    # A server that answered was reached.
    links = list(_chain(error))
    if any(getattr(link, "response", None) is not None for link in links):
        return None

    # The class of an error says more than its text.
    found = [_by_class(link) for link in links] + [_by_text(link) for link in links]
    reason = next((reason for reason in found if reason), None)
    if reason is None:
        return None

    address = next((address for link in links if (address := _address(link))), url)
    host = host_of(address) or "the server"
    if any(type(link).__name__ == "ProxyError" for link in links):
        host += " through the proxy"
    if reason == _BROKE_OFF:
        return f"the connection to {host} broke off"
    return f"cannot reach {host}: {reason}"


def host_of(url: str) -> str:
    """Return the host of an address, with its port if it has one, without a name and password."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and those that it wraps, from the outside to the inside."""
    waiting = [error]
    seen = set()
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


def _address(error: BaseException) -> str:
    """Return the address of the failed request. After a redirect it is not the original one."""
    try:
        return str(error.request.url)  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):
        # httpx raises a RuntimeError if the error belongs to no request.
        return ""
