"""Serve a tuned model: `python -m sft.serve --help`."""

import argparse
import logging
import signal
import socket
from typing import TYPE_CHECKING, Any

from sft.errors import InputError
from sft.launch import command

if TYPE_CHECKING:
    from sft.inference.models import Voice
    from sft.serving.engine import Engine

DESCRIPTION = """\
Serve a tuned model and its base with OpenAI's chat API, and a page to try them side by side.

  python -m sft.serve                                the newest run, at http://127.0.0.1:8000
  python -m sft.serve outputs/mine --port 9000 --slots 32
  python -m sft.serve someone/tuned-gpt2             a Hugging Face folder or repository

POST /v1/chat/completions (stream, too) and GET /v1/models, with the models `tuned` and `base`; GET /health.
The last user message is the instruction; `input` may go beside it, as in the training records. Earlier turns are not
shown to the model, which learned from single ones, unless it came with a chat template of its own. System messages are
refused. The likeliest token is taken, unless a request asks for a temperature.
"""
EPILOG = """\
At SIGINT (Ctrl-C) or SIGTERM nothing new is taken, what is being answered is finished, for at most 30 seconds, and the
exit code is 0; a second Ctrl-C does not wait.
"""
GRACE = 30  # seconds


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
    made.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    made.add_argument(
        "--precision", choices=("auto", "32", "bf16-mixed", "16-mixed"), default="auto"
    )
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
        "--no-base", action="store_true", help="serve the tuned model alone, in half the memory"
    )
    return made


def serve(arguments: argparse.Namespace) -> None:
    from sft.inference.models import Place, load_tuned
    from sft.serving.engine import Engine
    from sft.serving.guard import is_loopback

    listener = listen(arguments.host, arguments.port)
    place = Place.pick(arguments.device, arguments.precision)
    voices = {"tuned": load_tuned(arguments.model, place)}
    if not arguments.no_base:
        voices |= base_of(voices["tuned"], place)
    engines = {
        name: Engine(voice, arguments.slots, arguments.queue) for name, voice in voices.items()
    }
    for name, voice in voices.items():
        print(f"{name}: {voice}")
    if not is_loopback(arguments.host):
        print("warning: other machines can ask too; there are no passwords")
    print(f"on {place.device} in {place.precision}, at {address(listener)}", flush=True)
    run(engines, arguments, listener)


def base_of(tuned: "Voice", place: Any) -> dict[str, "Voice"]:
    """The base, if it can be had."""
    from sft.inference.models import load_base

    try:
        return {"base": load_base(tuned, place)}
    except InputError as error:
        logging.getLogger("sft").warning(f"warning: no base beside it: {error}")
        return {}


def listen(host: str, port: int) -> socket.socket:
    """Raises InputError if that address cannot be had."""
    try:
        # The protocol by its number: of sockets without it, asyncio leaves Nagle's algorithm on, and tokens wait 40 ms
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[
            0
        ]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
            listener.listen(1024)
        except OSError:
            listener.close()
            raise
        return listener
    except OSError as error:
        raise InputError(
            f"--host {host} --port {port}: cannot listen there ({error.strerror}); give others"
        ) from error


def address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def run(
    engines: "dict[str, Engine]", arguments: argparse.Namespace, listener: socket.socket
) -> None:
    """Answer until a signal comes."""
    import uvicorn

    from sft.serving.app import make_app

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            for engine in engines.values():
                engine.closing = True
            super().handle_exit(sig, frame)

    for signal_number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # uvicorn raises them again when it is done
        signal.signal(signal_number, lambda *_: None)
    app = make_app(engines, arguments.max_tokens, arguments.host)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=GRACE
    )
    Server(config).run(sockets=[listener])


def main() -> None:
    serve(parser().parse_args())


if __name__ == "__main__":
    command(main)
