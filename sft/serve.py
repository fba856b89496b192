"""Serve a tuned model: `python -m sft.serve --help`."""

import argparse
import logging
import os
import re
import signal
import socket
from typing import TYPE_CHECKING, Any

from sft.command import add_placement, command, heavy_imports, require
from sft.errors import InputError

if TYPE_CHECKING:
    from sft.inference.models import ChatModel, Placement
    from sft.serving.engine import Engine

log = logging.getLogger("sft")

DESCRIPTION = """\
Serve a tuned model and its base with OpenAI's API, and a page to try them side by side.

  python -m sft.serve                                the newest run, at http://127.0.0.1:8000
  python -m sft.serve outputs/mine --port 9000 --slots 32
  python -m sft.serve someone/tuned-gpt2             a Hugging Face folder or repository
  python -m sft.serve --add de=outputs/de --add fr=outputs/fr     several, each by its name

POST /v1/chat/completions and /v1/completions (also as streams) and GET /v1/models, with the models
`tuned` and `base`; GET /health. Completions continue plain text, without a template. A model tuned
on conversations is shown the whole chat, its system message included. One tuned on single
instructions is shown the last user message alone, and its system message must be empty. The body
may also hold `input`, as in the training records. The likeliest token is taken, unless a request
gives a temperature.

If SFT_API_KEY is set in the environment, every request to the API must carry that key.
"""
EPILOG = """\
SIGINT (Ctrl-C) or SIGTERM stops the server. It takes nothing new, finishes the current answers in
at most 30 seconds, and exits with code 0. A second Ctrl-C does not wait.
"""

# The most seconds in which current answers may be finished after a signal.
GRACE = 30

# A command line can be read by every user of the machine, so the key is not given there.
API_KEY = "SFT_API_KEY"


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def port(text: str) -> int:
    number = int(text)
    if not 0 <= number < 1 << 16:
        raise ValueError
    return number


def named(text: str) -> tuple[str, str]:
    name, _, run = text.partition("=")
    if not re.fullmatch(r"[\w.-]+", name) or not run or name in ("tuned", "base"):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected NAME=RUN, with letters, digits, '.', '_' and '-' in the name, "
            "which is neither tuned nor base"
        )
    return name, run


def origin(text: str) -> str:
    if text != "*" and not re.fullmatch(r"https?://[^/\s]+", text):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected an address such as https://example.com, or *"
        )
    return text


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m sft.serve",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "model", nargs="?", default="outputs/latest", help="run, folder or repository (%(default)s)"
    )
    made.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (%(default)s: this machine only)"
    )
    made.add_argument("--port", type=port, default=8000, help="0: any that is free (%(default)s)")
    add_placement(made)
    made.add_argument(
        "--slots",
        type=positive,
        default=16,
        help="answers decoded together, per model (%(default)s)",
    )
    made.add_argument(
        "--queue",
        type=positive,
        default=64,
        help="questions that may wait, per model (%(default)s)",
    )
    made.add_argument(
        "--max-tokens",
        type=positive,
        default=256,
        help="the longest answer, in tokens (%(default)s)",
    )
    made.add_argument(
        "--add",
        action="append",
        type=named,
        default=[],
        metavar="NAME=RUN",
        help="serve another model, by this name; adapters of one base share its memory",
    )
    made.add_argument(
        "--allow-origin",
        action="append",
        type=origin,
        default=[],
        metavar="URL",
        help="let pages of this site ask, too; *: pages of every site",
    )
    made.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="answer to this name of the machine, too",
    )
    made.add_argument(
        "--trim",
        action="store_true",
        help="leave out a chat's oldest turns if they do not fit the context (else: an error)",
    )
    made.add_argument(
        "--no-base", action="store_true", help="serve the tuned model alone, in half the memory"
    )
    return made


def serve(arguments: argparse.Namespace) -> None:
    """Load the models and serve them until a signal comes.

    Raises:
        InputError: the address cannot be had, the model cannot be loaded, or a package is missing.
    """
    require("serve", "the server", "starlette", "uvicorn")
    with heavy_imports():
        from sft.inference.models import Placement, load_tuned, share_weights
        from sft.serving.engine import Engine
        from sft.serving.guard import is_loopback

    # The address comes first, so that a port in use is found before the models are loaded.
    listener = listen(arguments.host, arguments.port)
    placement = Placement.pick(arguments.device, arguments.precision)
    chat_models = {"tuned": load_tuned(arguments.model, placement)}
    if not arguments.no_base:
        base = try_base(chat_models["tuned"], placement)
        if base is not None:
            chat_models["base"] = base
    for name, run in arguments.add:
        if name in chat_models:
            raise InputError(f"--add: {name} is given twice")
        chat_models[name] = load_tuned(run, placement)

    engines: dict[str, Engine] = {}
    for name, chat_model in chat_models.items():
        others = [engine.chat_model.model for engine in engines.values()]
        shared = share_weights(chat_model.model, others)
        engines[name] = Engine(chat_model, arguments.slots, arguments.queue)
        print(f"{name}: {chat_model}" + (f", {shared:.0%} of them shared" if shared else ""))
    placement.freeze(*chat_models.values())
    key = os.environ.get(API_KEY, "").strip() or None
    if not is_loopback(arguments.host) and key is None:
        print(f"warning: other machines can ask too, without a key; {API_KEY} sets one")
    where = f"on {placement.device} in {placement.precision}"
    if key:
        where += f", for those with the key in {API_KEY}"
    print(f"{where}, at {address(listener)}", flush=True)
    run_server(engines, arguments, key, listener)


def try_base(tuned: "ChatModel", placement: "Placement") -> "ChatModel | None":
    """Load the base; None, with a warning, if it cannot be loaded."""
    from sft.inference.models import load_base

    try:
        return load_base(tuned, placement)
    except InputError as error:
        log.warning(f"warning: the tuned model is served alone: {error}")
        return None


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address.

    Raises:
        InputError: the address cannot be had.
    """
    try:
        # asyncio turns Nagle's algorithm off only for a socket that names its protocol. With it,
        # each token would wait 40 ms.
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, where = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            # On Windows this would let a second server take the same port.
            if os.name != "nt":
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
            listener.listen(1024)
        except OSError:
            listener.close()
            raise
        return listener
    except OSError as error:
        given = f"--host {host} --port {port}"
        raise InputError(
            f"{given}: cannot listen there ({error.strerror}); choose others"
        ) from error


def address(listener: socket.socket) -> str:
    """Return the URL of the server."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def run_server(
    engines: "dict[str, Engine]",
    arguments: argparse.Namespace,
    key: str | None,
    listener: socket.socket,
) -> None:
    """Answer until a signal comes, and finish the current answers."""
    import uvicorn

    from sft.serving.app import make_app
    from sft.serving.guard import Access

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            for engine in engines.values():
                engine.closing = True
            super().handle_exit(sig, frame)

    # uvicorn raises the signal again once it has stopped. Then it must no longer end the process.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: None)

    origins = tuple(arguments.allow_origin)
    access = Access(arguments.host, origins, tuple(arguments.allow_host), key)
    app = make_app(engines, arguments.max_tokens, access, arguments.trim)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=GRACE
    )
    Server(config).run(sockets=[listener])


def main() -> None:
    serve(parser().parse_args())


if __name__ == "__main__":
    command(main)
