"""A download continues, and knows when it is whole."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sft.download import fetch_rest

Serve = Callable[..., str]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start a server that gives one answer, and return its address."""
    monkeypatch.setenv("NO_PROXY", "*")
    servers = []

    def start(status: int, body: bytes, **headers: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments: object) -> None:
                pass

            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(body)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        options = {"poll_interval": 0.01}
        threading.Thread(target=server.serve_forever, kwargs=options, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/x"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_whole_part_survives_a_416_without_the_files_size(serve: Serve, tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    part.write_bytes(b"the whole file")
    assert fetch_rest(serve(416, b"no more"), part, "x") is None
    assert part.read_bytes() == b"the whole file"


def test_whole_part_is_known_by_the_size_in_a_416(serve: Serve, tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    part.write_bytes(b"abc")
    assert fetch_rest(serve(416, b"no", Content_Range="bytes */3"), part, "x") == 3


def test_rest_is_appended_and_the_whole_size_checked(serve: Serve, tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    part.write_bytes(b"abc")
    assert fetch_rest(serve(206, b"de", Content_Range="bytes 3-4/5"), part, "x") == 5
    assert part.read_bytes() == b"abcde"
    with pytest.raises(OSError, match="7 of 9 bytes"):
        fetch_rest(serve(206, b"fg", Content_Range="bytes 5-6/9"), part, "x")
    assert part.read_bytes() == b"abcdefg"


def test_answer_with_the_whole_file_replaces_the_part(serve: Serve, tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    part.write_bytes(b"old")
    assert fetch_rest(serve(200, b"whole"), part, "x") == 5
    assert part.read_bytes() == b"whole"
