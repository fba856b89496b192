"""Uploads to the hub, which is a server on this machine."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

from sft import export
from sft.checkpoint.upload import upload
from sft.errors import InputError
from sft.export import HF_FILES
from tests.checkpoint.test_hub import use

TOKEN = "hf_secretsecretsecretsecretsecretsecr"
REPO = "someone/mine"


@dataclass
class Receiver:
    """What arrived, and how the server refuses."""

    refuses: dict[str, int] = field(default_factory=dict)  # status by a part of the path
    files: dict[str, bytes] = field(default_factory=dict)
    # By their SHA-256, until the commit names them.
    large: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str | None] = field(default_factory=set)
    commits: int = 0
    url: str = ""


def handler(hub: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hub.tokens.add(self.headers["Authorization"])
            for place, status in hub.refuses.items():
                if place in self.path:
                    return self.answer({"error": "no"}, status)
            if self.path == "/api/repos/create":
                return self.answer({"url": f"{hub.url}/{REPO}"})
            if "/preupload/" in self.path:
                files = [
                    {"path": f["path"], "shouldIgnore": False, "uploadMode": mode_of(f["path"])}
                    for f in json.loads(body)["files"]
                ]
                return self.answer({"files": files})
            if self.path.endswith("/objects/batch"):
                objects = [
                    {"oid": o["oid"], "actions": {"upload": {"href": f"{hub.url}/put/{o['oid']}"}}}
                    | o
                    for o in json.loads(body)["objects"]
                ]
                return self.answer({"transfer": "basic", "objects": objects})
            if "/commit/" in self.path:
                hub.commits += 1
                for line in map(json.loads, body.splitlines()):
                    receive(hub, line["key"], line["value"])
                return self.answer(
                    {
                        "success": True,
                        "commitOid": "0" * 40,
                        "commitUrl": f"{hub.url}/{REPO}/commit/0",
                    }
                )
            return self.answer({})

        def do_PUT(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            hub.large[hashlib.sha256(content).hexdigest()] = content
            self.answer({})

        def answer(self, content: dict, status: int = 200) -> None:
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    return Handler


def mode_of(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"


def receive(hub: Receiver, key: str, value: dict) -> None:
    if key == "file":
        hub.files[value["path"]] = base64.b64decode(value["content"])
    elif key == "lfsFile":
        hub.files[value["path"]] = hub.large[value["oid"]]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    hub = Receiver()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    ).start()
    use(monkeypatch, hub.url, tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield hub
    server.shutdown()
    server.server_close()
    close_session()


def test_a_checkpoint_arrives_whole_in_one_commit(hub, checkpoint):
    assert upload(checkpoint, HF_FILES, REPO) == f"{hub.url}/{REPO}"
    assert hub.files == {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    assert hub.commits == 1
    assert hub.tokens == {f"Bearer {TOKEN}"}


def test_other_files_are_not_uploaded(hub, checkpoint, tmp_path):
    for name in ("config.json", "notes.txt", ".env"):
        (tmp_path / name).write_text("mine")
    for folder in ("private", "checkpoints/old", ".git"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.json").write_text("mine")
    upload(tmp_path, HF_FILES, REPO)
    assert list(hub.files) == ["config.json"]


@pytest.mark.parametrize(
    ("place", "status", "message"),
    [
        ("create", 401, "does not know who asks; `hf auth login`, or set HF_TOKEN"),
        ("create", 403, "does not let you write there"),
        ("commit", 403, "does not let you write there"),
        ("preupload", 404, "refused with status 404"),
        ("create", 400, "refused with status 400"),
        ("commit", 500, "refused with status 500"),
    ],
)
def test_a_refusal_is_one_line_without_the_token(hub, checkpoint, place, status, message, caplog):
    hub.refuses[place] = status
    with pytest.raises(InputError, match=message) as error:
        upload(checkpoint, HF_FILES, REPO)
    assert str(error.value).startswith(f"{REPO}: {hub.url}")
    assert "\n" not in str(error.value)
    assert TOKEN not in str(error.value) + caplog.text
    assert hub.files == {}


def test_unreachable_hub_is_named(hub, checkpoint, monkeypatch, tmp_path):
    use(monkeypatch, "http://127.0.0.1:9", tmp_path)
    with pytest.raises(
        InputError,
        match=rf"^{REPO}: .* http://127.0.0.1:9 \(cannot reach 127.0.0.1:9: refused\)",
    ):
        upload(checkpoint, HF_FILES, REPO)


@pytest.mark.parametrize("status", [None, 401, 403, 500])  # None: nothing listens
def test_password_in_the_address_is_not_printed(hub, checkpoint, monkeypatch, tmp_path, status):
    place = hub.url.removeprefix("http://") if status else "127.0.0.1:9"
    hub.refuses["create"] = status
    use(monkeypatch, f"http://me:p@ss@{place}", tmp_path)
    with pytest.raises(InputError, match=f"^{REPO}: .*http://…@{place} "):
        upload(checkpoint, HF_FILES, REPO)


def test_malformed_repository_name_is_refused(hub, checkpoint):
    with pytest.raises(InputError, match="not the name of a repository"):
        upload(checkpoint, HF_FILES, "a/b/c")
    with pytest.raises(InputError, match="not the name of a repository"):
        upload(checkpoint, HF_FILES, "alone")


def test_push_uploads_the_folder(hub, checkpoint, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["export", str(checkpoint), "--push", REPO])
    export.main()
    assert capsys.readouterr().out == f"uploaded: {hub.url}/{REPO}\n"
    assert "model.safetensors" in hub.files
