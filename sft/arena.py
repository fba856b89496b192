"""Vote on answers without knowing whose they are: `python -m sft.arena --help`."""

from __future__ import annotations

import argparse
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from sft.command import command, require
from sft.errors import counted
from sft.latest import followed
from sft.serve import address, listen, port

if TYPE_CHECKING:
    from sft.voting.ballots import Arena
    from sft.voting.votes import VoteFile

DESCRIPTION = """\
Show an instruction with two answers, in random order and without names, and ask which is better.

  python -m sft.arena                                the newest run beside its base
  python -m sft.arena outputs/one outputs/other      runs beside each other, two or more
  python -m sft.arena outputs/one outputs/other --show   what the votes say, without the page

The answers are those of `python evaluate.py`. All runs must have been asked the same records.
"""
EPILOG = """\
Each vote is kept the moment it is given, in votes.jsonl. Give the same command again to go on.
Several people vote by their names. SIGINT (Ctrl-C) or SIGTERM stops the server, which then shows
what the votes say and writes report.html.
"""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m sft.arena",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "runs",
        nargs="*",
        default=["outputs/latest"],
        metavar="RUN",
        help="evaluated run; one alone is compared with its base (outputs/latest)",
    )
    made.add_argument(
        "--base", action="store_true", help="the first run's base takes part beside several runs"
    )
    made.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="for the votes (default: arena/ of the first RUN)",
    )
    made.add_argument("--port", type=port, default=8001, help="0: any that is free (%(default)s)")
    made.add_argument(
        "--show", action="store_true", help="show what the votes say, and write the page; no server"
    )
    return made


def main() -> None:
    arguments = parser().parse_args()
    require("serve", "the voting page", "starlette", "uvicorn")

    # --help and a wrong option must not wait for these.
    from sft.atomic import locked, make_folder
    from sft.voting.ballots import load_arena
    from sft.voting.votes import VoteFile

    arena = load_arena(arguments.runs, arguments.base)
    folder = arguments.out.expanduser() if arguments.out else followed(arguments.runs[0]) / "arena"
    make_folder(folder)
    busy = (
        f"{folder}: another process collects votes there, and shows them at /outcome of its page; "
        "end it, or give --out FOLDER"
    )
    with locked(folder / ".lock", refuse=busy):
        file = VoteFile(folder / "votes.jsonl")
        if not arguments.show:
            collect(arena, file, listen("127.0.0.1", arguments.port))
        tell(arena, file, folder)


def collect(arena: Arena, file: VoteFile, listener: socket.socket) -> None:
    """Serve the page until a signal comes."""
    import uvicorn

    from sft.serving.guard import Access
    from sft.voting.app import make_app

    print(
        f"{counted(len(arena.candidates), 'model')}, {counted(len(arena.ballots), 'pair')} of "
        f"answers; votes are kept in {file.path}\nvote at {address(listener)}",
        flush=True,
    )

    # uvicorn raises the signal again once it has stopped. Then it must no longer end the process.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: None)
    app = make_app(arena, file, Access("127.0.0.1"))
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=5
    )
    uvicorn.Server(config).run(sockets=[listener])


def tell(arena: Arena, file: VoteFile, folder: Path) -> None:
    """Show what the votes say, and write it."""
    from sft.voting.app import write_outcome
    from sft.voting.outcome import outcome, outcome_text

    found = outcome(arena, file.by_key.values())
    print(outcome_text(found))
    if found.votes:
        print(f"\nto look at: {write_outcome(folder, found)}")


if __name__ == "__main__":
    command(main)
