"""Downloads of OpenAI's release, and what is refused. `make test-openai` converts one."""

import hashlib
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from sft import convert_openai
from sft.checkpoint import hub
from sft.convert_openai import FILES, convert, download, fetch, variable_of
from sft.errors import InputError
from sft.gpt2.model import GPT, GPTConfig

CONTENT = bytes(range(256)) * 4096  # 16 pieces of those that are written


@dataclass
class Store:
    """What the server holds, and how it misbehaves."""

    files: dict[str, bytes]
    breaks: int = 0  # answers that end in the middle
    ranges: bool = True  # it can send the rest of a file
    sizes: bool = True  # it tells how long a file is
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""


def handler(store: Store) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            name, wanted = self.path.rpartition("/")[2], self.headers["Range"]
            store.asked.append((name, wanted))
            content = store.files.get(name)
            if content is None:
                return self.send_error(404)
            start = (
                int(wanted.removeprefix("bytes=").removesuffix("-"))
                if wanted and store.ranges
                else 0
            )
            if start and start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206 if start else 200)
            if start:
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
                )
            if store.sizes:
                self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            content = content[start:]
            if store.breaks:
                store.breaks -= 1
                content = content[: len(content) // 2]
            self.wfile.write(content)
            return None

    return Handler


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    store = Store({name: name.encode() * 100 for name in FILES})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(store))
    store.url = f"http://127.0.0.1:{server.server_port}/models"
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    ).start()
    monkeypatch.setenv("NO_PROXY", "*")
    for theirs, ours in convert_openai.TOKENIZER.items():
        sha256 = hashlib.sha256(store.files[theirs]).hexdigest()
        monkeypatch.setitem(hub.SHA256, ("openai-community/gpt2", ours), sha256)
    yield store
    server.shutdown()
    server.server_close()


# Downloading


def test_only_missing_files_are_fetched(store, tmp_path):
    (tmp_path / "hparams.json").write_text("mine")
    download("124M", tmp_path, store.url)
    assert {name for name, _ in store.asked} == set(FILES) - {"hparams.json"}
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)
    assert (tmp_path / "model.ckpt.meta").read_bytes() == store.files["model.ckpt.meta"]


def test_broken_download_continues_where_it_broke(store, tmp_path):
    store.files["x"], store.breaks = CONTENT, 2
    fetch(f"{store.url}/x", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT
    half, three_quarters = len(CONTENT) // 2, len(CONTENT) * 3 // 4
    assert store.asked == [("x", None), ("x", f"bytes={half}-"), ("x", f"bytes={three_quarters}-")]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_next_command_continues_the_download(store, tmp_path):
    store.files["x"], store.breaks = CONTENT, 3
    with pytest.raises(InputError, match=r"x: .* broke off.*; the same command"):
        fetch(f"{store.url}/x", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    assert (tmp_path / "x.part").read_bytes() == CONTENT[: len(CONTENT) * 7 // 8]
    fetch(f"{store.url}/x", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_server_without_ranges_restarts_the_download(store, tmp_path):
    store.files["x"], store.breaks, store.ranges = CONTENT, 1, False
    fetch(f"{store.url}/x", tmp_path / "x", attempts=2)
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_part_that_is_whole_is_kept(store, tmp_path):
    store.files["x"] = CONTENT
    (tmp_path / "x.part").write_bytes(CONTENT)
    fetch(f"{store.url}/x", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_part_that_is_too_long_is_deleted(store, tmp_path):
    store.files["x"] = CONTENT
    (tmp_path / "x.part").write_bytes(CONTENT + b"more")
    with pytest.raises(
        InputError,
        match=f"expected {len(CONTENT)} bytes, found {len(CONTENT) + 4}, which were deleted",
    ):
        fetch(f"{store.url}/x", tmp_path / "x", attempts=1)
    fetch(f"{store.url}/x", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_server_without_a_size_is_refused(store, tmp_path):
    store.files["x"], store.sizes, store.ranges = CONTENT, False, False
    with pytest.raises(InputError, match="the server does not tell the file's size"):
        fetch(f"{store.url}/x", tmp_path / "x")


def test_missing_file_and_unreachable_server_are_named(store, tmp_path):
    with pytest.raises(InputError, match="404"):
        fetch(f"{store.url}/none", tmp_path / "x")
    with pytest.raises(InputError, match=r"cannot reach 127.0.0.1:9: refused") as error:
        fetch("http://127.0.0.1:9/x", tmp_path / "x")
    assert isinstance(error.value.__cause__, requests.RequestException)
    assert not list(tmp_path.iterdir())


def test_tokenizer_with_another_hash_is_refused(store, tmp_path):
    store.files["vocab.bpe"] = b"<html>log in</html>"
    with pytest.raises(InputError, match=r"vocab\.bpe: sha256 .*expected "):
        download("124M", tmp_path, store.url)


# Converting


def test_variable_names_are_those_of_the_release() -> None:
    names = GPT(GPTConfig(n_layer=11, n_head=1, n_embd=4, vocab_size=5, n_positions=4)).state_dict()
    variables = {variable_of(name) for name in names}
    assert len(variables) == len(names)
    written_out = {
        "model/wte",
        "model/wpe",
        "model/ln_f/g",
        "model/ln_f/b",
        "model/h10/ln_1/g",
        "model/h10/ln_2/b",
        "model/h0/attn/c_attn/w",
        "model/h0/attn/c_proj/b",
        "model/h3/mlp/c_fc/w",
        "model/h3/mlp/c_proj/b",
    }
    assert written_out < variables


def release(folder: Path, bpe: Path, **hparams: int) -> Path:
    for name in FILES:
        (folder / name).touch()
    shutil.copy(bpe / "vocab.json", folder / "encoder.json")
    shutil.copy(bpe / "merges.txt", folder / "vocab.bpe")
    known = {"n_vocab": 400, "n_ctx": 64, "n_embd": 16, "n_head": 2, "n_layer": 2}
    (folder / "hparams.json").write_text(json.dumps(known | hparams))
    return folder


def test_missing_files_are_named(tmp_path):
    (tmp_path / "hparams.json").touch()
    with pytest.raises(
        InputError,
        match=r"no checkpoint, encoder.json, vocab.bpe, .*; expected OpenAI's release, or",
    ):
        convert(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("hparams.json", "{}", r"hparams.json: expected JSON with n_vocab, n_ctx, .* \(KeyError"),
        ("hparams.json", '{"n_vocab"', "hparams.json: not JSON"),
        ("encoder.json", "[]", "encoder.json: expected a JSON object"),
        ("vocab.bpe", "a", "vocab.bpe, line 1: expected two tokens"),
    ],
)
def test_damaged_files_are_refused(bpe, tmp_path, name, content, message):
    (release(tmp_path, bpe) / name).write_text(content)
    with pytest.raises(InputError, match=message) as error:
        convert(tmp_path, tmp_path / "out")
    assert str(error.value).startswith(str(tmp_path / name))


def test_hparams_that_fit_no_model_are_refused(bpe, tmp_path):
    with pytest.raises(
        InputError, match=r"hparams.json: .*n_embd: 16 cannot be divided among n_head = 3"
    ):
        convert(release(tmp_path, bpe, n_head=3), tmp_path / "out")


def test_missing_tensorflow_is_named(bpe, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(
        InputError, match=r"TensorFlow, which reads the release, is not installed: pip install"
    ):
        convert(release(tmp_path, bpe), tmp_path / "out")
    assert not (tmp_path / "out").exists()
