"""Commands in processes of their own, forked from a server that has imported all they need.

A new interpreter takes seconds to import torch and Lightning; a fork starts in an instant. It has
its own streams, environment, folder, signals and exit code, so only what an interpreter does before
it runs a command is not tested this way. Some tests start real interpreters for that.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from functools import cache
from multiprocessing import forkserver, reduction
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess
from typing import IO, Any

ROOT = Path(__file__).parents[1]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["tests.training.processes", "train", "sft.training.run", "evaluate", "sft.inference.models"]
)


@cache
def serve() -> None:
    """Start the server; it finds modules where this process does."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    forkserver.ensure_running()
    del os.environ["PYTHONPATH"]
    if before is not None:
        os.environ["PYTHONPATH"] = before


class Descriptor:
    """A file descriptor that is handed to the process along with its arguments."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (reduction.DupFd(self.number),)


def _received(descriptor: Any) -> int:
    return int(descriptor.detach())


class Command:
    """`python ARGUMENTS` that has been started, as `subprocess.Popen` has it.

    Args:
        arguments: a script, or -m and a module, and what follows.
        closed: the numbers of standard streams that are closed, as by `<&-` in a shell.
        output: a descriptor in place of the file from which stdout is read at the end.
    """

    def __init__(
        self,
        *arguments: str,
        folder: Path,
        given: bytes = b"",
        closed: tuple[int, ...] = (),
        output: int | None = None,
        **environment: str,
    ) -> None:
        serve()
        self.files: list[IO[bytes]] = [tempfile.TemporaryFile() for _ in range(3)]  # noqa: SIM115
        self.files[0].write(given)
        self.files[0].seek(0)
        numbers = [file.fileno() for file in self.files]
        if output is not None:
            numbers[1] = output
        streams = [
            None if place in closed else Descriptor(number) for place, number in enumerate(numbers)
        ]
        variables = os.environ | environment
        variables.pop("SFT_ONE_LINE", None)
        self.process: BaseProcess = CONTEXT.Process(
            target=_become, args=(arguments, streams, str(folder), dict(variables))
        )
        self.process.start()

    def finish(self, timeout: float = 600) -> CompletedProcess[bytes]:
        """Wait for its end; return its exit code and what it wrote."""
        self.process.join(timeout)
        code = self.process.exitcode
        self.process.kill()
        texts = []
        for file in self.files:
            file.seek(0)
            texts.append(file.read())
            file.close()
        assert code is not None, f"still running after {timeout} s: {texts[1:]}"
        return CompletedProcess([], code, texts[1], texts[2])


def _become(
    arguments: tuple[str, ...],
    streams: list[int | None],
    folder: str,
    environment: dict[str, str],
) -> None:
    """Do what an interpreter does when it is started with these arguments."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for place, stream in enumerate(streams):
        if stream is None:
            os.close(place)
        else:
            os.dup2(stream, place)

    encoding, _, errors = environment.get("PYTHONIOENCODING", "utf-8").partition(":")
    for place, name in enumerate(("stdin", "stdout", "stderr")):
        policy = "backslashreplace" if name == "stderr" else errors or "strict"
        opened = streams[place] is not None and os.fdopen(
            place, "w" if place else "r", encoding=encoding, errors=policy, closefd=False
        )
        setattr(sys, name, opened or None)
        setattr(sys, f"__{name}__", opened or None)

    # Processes that the command starts import what they need, and from where it did.
    multiprocessing.set_start_method(None, force=True)
    if arguments[0] == "-m":
        sys.argv = [arguments[1], *arguments[2:]]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [*arguments]
        sys.path.insert(0, str(Path(arguments[0]).parent))
        runpy.run_path(arguments[0], run_name="__main__")
