"""The server's door: its process, its signals, its errors."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import requests

from sft.serve import listen, parser

HELLO = {"model": "tuned", "messages": [{"role": "user", "content": "hello"}]}


@contextmanager
def server(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """Its process, its address, and what it said before that."""
    command = [
        sys.executable,
        "-m",
        "sft.serve",
        "gpt2-nano",
        "--port",
        "0",
        "--device",
        "cpu",
        *arguments,
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    ) as process:
        said = ""
        assert process.stdout
        for line in process.stdout:
            said += line
            if found := re.search(r"at (http://\S+)", line):
                break
        try:
            yield process, found[1], said
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_it_finish_what_it_does(number: signal.Signals) -> None:
    with server() as (process, url, said):
        assert "warning: the tuned model is served alone: gpt2-nano does not name its base" in said
        assert "tuned: gpt2-nano, 4M parameters\n" in said
        stream = requests.post(
            f"{url}/v1/chat/completions", json=HELLO | {"stream": True}, stream=True, timeout=60
        )
        lines = stream.iter_lines(chunk_size=1)
        assert next(lines).startswith(b"data: {")
        process.send_signal(number)
        assert [line for line in lines if line][-1] == b"data: [DONE]"
        assert process.wait(20) == 0
        assert process.stdout
        assert "Traceback" not in process.stdout.read()
        with pytest.raises(requests.ConnectionError):
            requests.get(url, timeout=5)


def test_pieces_are_sent_at_once() -> None:
    """A caller who acknowledges late, as TCP allows, must not hold the next piece back (Nagle's algorithm)."""
    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP  # by which asyncio decides


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        command = [sys.executable, "-m", "sft.serve", "gpt2-nano", "--port", str(port)]
        found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stdout) == (1, "")
    expected = f"error: --host 127.0.0.1 --port {port}: cannot listen there (Address already in use); give others\n"
    assert found.stderr == expected


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "65536"],
        ["--slots", "0"],
        ["--queue", "x"],
        ["--max-tokens", "-1"],
        ["--device", "tpu"],
    ],
)
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parser().parse_args(arguments)
    assert end.value.code == 2
    assert f"argument {arguments[0]}: invalid" in capsys.readouterr().err


def test_help_is_quick() -> None:
    for door in ("sft.serve", "sft.chat"):
        code = f"import sys, runpy; sys.argv = ['x', '--help']\ntry: runpy.run_module('{door}', run_name='__main__')\n"
        code += "except SystemExit: print('torch' in sys.modules, 'uvicorn' in sys.modules)"
        found = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
        )
        assert found.stdout.splitlines()[-1] == "False False"
        assert "python -m sft." in found.stdout
