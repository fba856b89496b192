"""Runs in processes of their own, which can be killed.

They are forked from a server that has imported all they need, so one starts in an instant.
"""

import dataclasses
import multiprocessing
import os
import socket
from collections.abc import Callable
from itertools import count
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

import train
from sft.config.schema import TrainConfig
from sft.training.module import InstructionTuner
from tests import forked

Function = Callable[[TrainConfig, Path], None]

_STARTED: list[BaseProcess] = []


def begin(
    config: TrainConfig,
    path: Path,
    ranks: int = 1,
    function: Function = train.fit,
    told: tuple[int, ...] = (),
    number: int = 0,
    within: tuple[str, int] = ("training_step", 4),
) -> list[BaseProcess]:
    """Call the function in as many processes, as torchrun would start them.

    Args:
        told: the ranks that get the signal `number`.
        within: the method of the module in which they get it, and at which of its calls.
    """
    forked.serve()
    config, port, started = dataclasses.replace(config, devices=ranks), free_port(), []
    for rank in range(ranks):
        environment = {
            "LOCAL_RANK": rank,
            "RANK": rank,
            "LOCAL_WORLD_SIZE": ranks,
            "WORLD_SIZE": ranks,
        }
        environment |= {
            "GROUP_RANK": 0,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "TORCHELASTIC_RUN_ID": "test",
        }
        given = {name: str(value) for name, value in environment.items()} if ranks > 1 else {}
        arguments = (
            function,
            config,
            path,
            given,
            os.getcwd(),
            (number, *within) if rank in told else None,
        )
        process = forked.CONTEXT.Process(target=_call, args=arguments)
        process.start()
        started.append(process)
    _STARTED.extend(started)
    return started


def end_all() -> None:
    """Kill what a failed test has left behind."""
    for process in _STARTED:
        process.kill()
    _STARTED.clear()


def finish(config: TrainConfig, path: Path, ranks: int = 1, function: Function = train.fit) -> None:
    """Call it, and wait for its end."""
    for process in begin(config, path, ranks, function):
        process.join(300)
        assert process.exitcode == 0


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def _call(
    function: Function,
    config: TrainConfig,
    path: Path,
    environment: dict[str, str],
    place: str,
    signal: tuple[int, str, int] | None,
) -> None:
    multiprocessing.set_start_method("fork", force=True)  # of data workers, as in the command
    os.environ |= environment
    os.chdir(place)
    torch.set_num_threads(1)
    if signal:
        _signal_in(*signal)
    if function is train.fit:
        path.mkdir(exist_ok=True)
    function(config, path)


def _signal_in(number: int, method: str, call: int) -> None:
    honest, seen = getattr(InstructionTuner, method), count(1)

    def signalled(self: InstructionTuner, *arguments: Any) -> Any:
        if next(seen) == call:
            os.kill(os.getpid(), number)
        return honest(self, *arguments)

    setattr(InstructionTuner, method, signalled)
