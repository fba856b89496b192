"""The server as a command: its process, its signals, its errors."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from sft.serve import listen, parser
from tests.forked import Command

HELLO = {"model": "tuned", "messages": [{"role": "user", "content": "hello"}]}


@contextmanager
def server(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """Start a server; yield its process, its URL, and what it printed until it listened."""
    command = [sys.executable, "-m", "sft.serve", "gpt2-nano"]
    command += ["--port", "0", "--device", "cpu", *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    ) as process:
        assert process.stdout
        printed = ""
        url = None
        for line in process.stdout:
            printed += line
            url = re.search(r"at (http://\S+)", line)
            if url:
                break
        try:
            assert url, printed
            yield process, url[1], printed
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_server_finish_its_answers(number: signal.Signals) -> None:
    with server("--add", "two=gpt2-nano") as (process, url, printed):
        assert "served alone: gpt2-nano does not name its base" in printed
        assert "tuned: gpt2-nano, 4M parameters\n" in printed
        assert "two: gpt2-nano, 4M parameters, 100% of them shared\n" in printed
        stream = requests.post(
            f"{url}/v1/chat/completions", json=HELLO | {"stream": True}, stream=True, timeout=300
        )
        lines = stream.iter_lines(chunk_size=1)
        assert next(lines).startswith(b"data: {")
        process.send_signal(number)
        assert [line for line in lines if line][-1] == b"data: [DONE]"
        assert process.wait(120) == 0
        assert process.stdout
        assert "Traceback" not in process.stdout.read()
        with pytest.raises(requests.ConnectionError):
            requests.get(url, timeout=60)


def test_a_piece_does_not_wait_for_the_acknowledgement_of_the_one_before() -> None:
    # By the protocol asyncio decides whether to turn Nagle's algorithm off.
    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_a_port_in_use_is_refused_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        command = ("-m", "sft.serve", "gpt2-nano", "--port", str(port))
        found = Command(*command, folder=tmp_path).finish()
    errors = found.stderr.decode()
    assert (found.returncode, found.stdout) == (1, b"")
    assert errors.startswith(f"error: --host 127.0.0.1 --port {port}: ")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--port", "65536"),
        ("--slots", "0"),
        ("--queue", "x"),
        ("--max-tokens", "-1"),
        ("--device", "tpu"),
        ("--add", "x"),
        ("--add", "base=x"),
        ("--allow-origin", "example.com"),
    ],
)
def test_a_wrong_option_is_refused_by_name(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        parser().parse_args([option, value])
    assert end.value.code == 2
    assert f"argument {option}: " in capsys.readouterr().err


SHOW_HELP = """
import sys, runpy
sys.argv = ["x", "--help"]
try:
    runpy.run_module("{module}", run_name="__main__")
except SystemExit:
    print("torch" in sys.modules, "uvicorn" in sys.modules)
"""


@pytest.mark.parametrize("module", ["sft.serve", "sft.chat"])
def test_help_does_not_wait_for_torch(module: str) -> None:
    command = [sys.executable, "-c", SHOW_HELP.format(module=module)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert found.stdout.splitlines()[-1] == "False False"
    assert f"python -m {module}" in found.stdout
