"""Downloads from the hub, which is a server on this machine, and its failures."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch
from huggingface_hub import close_session, constants
from safetensors.torch import load_file, save_file

from sft import load_pretrained
from sft.checkpoint import hub
from sft.checkpoint.folder import save_adapter
from sft.config.schema import LoraConfig
from sft.errors import InputError
from sft.gpt2.lora import add_lora

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLD = "fedcba9876543210fedcba9876543210fedcba98"
REPO = "someone/tiny"
ERRORS = {  # fault: (status, X-Error-Code)
    "no repository": (401, "RepoNotFound"),
    "gated": (403, "GatedRepo"),
    "no revision": (404, "RevisionNotFound"),
    "overloaded": (503, None),
    "too many requests": (429, None),
    "broken down": (500, None),
    "not found": (404, None),
    "forbidden": (403, None),
}


@dataclass
class FakeHub:
    """What the server holds, and how it misbehaves."""

    files: dict[str, bytes]
    repo: str = REPO
    commit: str = COMMIT
    faults: dict[str, str] = field(default_factory=dict)  # by file name, or "*"
    asked: list[str] = field(default_factory=list)
    url: str = ""
    over: threading.Event = field(default_factory=threading.Event)

    def etag(self, name: str) -> str:
        """As the hub does: sha256 for what it keeps in LFS, git's blob hash for the rest."""
        content = self.files[name]
        if name.endswith(".safetensors"):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def handler(fake: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            repo, resolve, place = unquote(self.path).lstrip("/").partition("/resolve/")
            revision, _, name = place.partition("/")
            if resolve:
                fake.asked.append(f"{self.command} {self.path}")
            fault = fake.faults.get(name) or fake.faults.get("*")
            if fault == "stalls":
                fake.over.wait(20)
            elif fault == "log-in elsewhere" and resolve:
                self.send_response(302)
                self.send_header(
                    "Location",
                    "http://localhost" + fake.url.removeprefix("http://127.0.0.1") + "/login",
                )
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif not resolve:
                self.page()
            elif repo != fake.repo:
                self.refuse(*ERRORS["no repository"])
            elif revision not in ("main", fake.commit):
                self.refuse(*ERRORS["no revision"])
            elif fault in ERRORS:
                self.refuse(*ERRORS[fault])
            elif name not in fake.files:
                self.refuse(404, "EntryNotFound")
            elif fault == "log-in page":
                self.page()
            else:
                self.send(name, body, fault)

        def refuse(self, status: int, code: str | None) -> None:
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("X-Repo-Commit", fake.commit)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def page(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", "13")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(b"<html></html>")

        def send(self, name: str, body: bool, fault: str | None) -> None:
            content = fake.files[name]
            self.send_response(200)
            self.send_header("X-Repo-Commit", fake.commit)
            self.send_header("ETag", f'"{fake.etag(name)}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if not body:
                return
            first = fake.asked.count(f"GET {self.path}") == 1
            if fault == "bit flip":
                content = content[:-1] + bytes([content[-1] ^ 1])
            if fault == "garbage":
                content = b"<" * len(content)
            if fault == "breaks off":
                content = content[: len(content) // 2] if first else b""
            if fault == "breaks off once" and first:
                content = content[: len(content) // 2]
            self.wfile.write(content)
            self.close_connection = True

    return Handler


def use(monkeypatch: pytest.MonkeyPatch, endpoint: str, cache: Path) -> None:
    """Set HF_ENDPOINT and HF_HUB_CACHE, which huggingface_hub reads when it is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits between its attempts
    close_session()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def fake(checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    fake = FakeHub({path.name: path.read_bytes() for path in checkpoint.iterdir()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(fake))
    fake.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    ).start()
    use(monkeypatch, fake.url, cache)
    yield fake
    fake.over.set()
    server.shutdown()
    server.server_close()
    close_session()


def refused(message: str, repo: str = REPO, revision: str | None = None) -> None:
    with pytest.raises(InputError, match=message) as error:
        load_pretrained(repo, revision)
    assert "\n" not in str(error.value)


def blobs(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("models--*/blobs/*"))


# What is fetched


def test_a_repository_is_fetched_once(fake, checkpoint):
    loaded = load_pretrained(REPO)
    assert (loaded.source, loaded.revision) == (REPO, COMMIT)
    assert loaded.sha256 == hashlib.sha256(fake.files["model.safetensors"]).hexdigest()
    assert loaded.prompt == load_pretrained(checkpoint).prompt
    expected = load_pretrained(checkpoint).model.state_dict()
    assert all(
        torch.equal(tensor, expected[name]) for name, tensor in loaded.model.state_dict().items()
    )
    fetched = {line.rsplit("/", 1)[1] for line in fake.asked if line.startswith("GET")}
    tokenizer = {"vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"}
    assert fetched == {"config.json", "model.safetensors", "generation_config.json", *tokenizer}


def test_repository_of_transformers_5_is_fetched(fake, checkpoint):
    """It writes tokenizer.json and chat_template.jinja, and neither vocab.json nor merges.txt."""
    del fake.files["vocab.json"], fake.files["merges.txt"]
    fake.files["tokenizer_config.json"] = json.dumps(
        {"eos_token": {"content": "<|endoftext|>"}}
    ).encode()
    fake.files["chat_template.jinja"] = "é{{ messages[0]['content'] }}".encode()
    loaded, expected = load_pretrained(REPO), load_pretrained(checkpoint)
    assert loaded.tokenizer._mergeable_ranks == expected.tokenizer._mergeable_ranks
    assert (loaded.prompt, loaded.chat_template) == (None, "é{{ messages[0]['content'] }}")
    assert loaded.names == {"eos_token": "<|endoftext|>"}
    fake.asked.clear()
    assert load_pretrained(REPO, COMMIT).tokenizer.n_vocab == 400
    assert fake.asked == []


def test_tokenizer_files_on_the_hub_that_disagree_are_refused(fake):
    whole = json.loads(fake.files["tokenizer.json"])
    vocab = whole["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    fake.files["tokenizer.json"] = json.dumps(whole).encode()
    refused("tokenizer.json disagrees with vocab.json and merges.txt: token 'a'")


@pytest.mark.parametrize("how", ["offline", "down"])
def test_a_cache_of_an_earlier_version_still_serves(fake, cache, monkeypatch, how):
    """Which did not fetch tokenizer.json, nor remember that there is no chat_template.jinja."""
    monkeypatch.setattr(hub, "_fetch_later_additions", lambda *_: None)
    load_pretrained(REPO)
    monkeypatch.undo()
    use(monkeypatch, fake.url, cache)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", how == "offline")
    fake.faults["*"] = "overloaded"
    assert load_pretrained(REPO).revision == COMMIT


def test_failed_download_of_a_chat_template_is_an_error(fake):
    fake.faults["chat_template.jinja"] = "overloaded"
    refused("someone/tiny: cannot reach")


def test_a_commit_in_the_cache_needs_no_request(fake):
    load_pretrained(REPO, revision=COMMIT)
    fake.asked.clear()
    load_pretrained(REPO, revision=COMMIT)
    assert fake.asked == []


def test_absence_of_a_file_is_cached(fake):
    del fake.files["tokenizer_config.json"]
    assert load_pretrained(REPO, revision=COMMIT).prompt is None
    fake.asked.clear()
    load_pretrained(REPO, revision=COMMIT)
    assert fake.asked == []


def test_a_full_cache_serves_offline(fake, cache, monkeypatch):
    load_pretrained(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fake.asked.clear()
    assert load_pretrained(REPO).revision == COMMIT
    assert fake.asked == []


def test_a_full_cache_serves_while_the_hub_is_down(fake):
    load_pretrained(REPO)
    fake.faults["*"] = "overloaded"
    assert load_pretrained(REPO).revision == COMMIT


def test_shards_are_fetched(fake, checkpoint, tmp_path):
    tensors = load_file(checkpoint / "model.safetensors")
    del fake.files["model.safetensors"]
    parts = {"part-1.safetensors": sorted(tensors)[:10], "part-2.safetensors": sorted(tensors)[10:]}
    for name, keys in parts.items():
        save_file({key: tensors[key] for key in keys}, tmp_path / name)
        fake.files[name] = (tmp_path / name).read_bytes()
    weight_map = {key: name for name, keys in parts.items() for key in keys}
    fake.files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    loaded = load_pretrained(REPO)
    assert torch.equal(loaded.model.wte.weight, tensors["transformer.wte.weight"])
    fake.asked.clear()
    assert load_pretrained(REPO, COMMIT).sha256 == loaded.sha256
    assert fake.asked == []


def test_an_adapter_is_fetched_without_its_base(fake, checkpoint, tmp_path, monkeypatch):
    base = load_pretrained(checkpoint)
    add_lora(base.model, LoraConfig())
    with torch.no_grad():
        base.model.h[0].attn.c_attn.lora_B.fill_(0.1)
    save_adapter(base, LoraConfig(), tmp_path / "adapter", prompt="{{ instruction }}")
    fake.files = {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()}
    expected = load_pretrained(tmp_path / "adapter")
    for offline in (False, True):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        loaded = load_pretrained(REPO)
        assert (loaded.source, loaded.revision, loaded.base) == (REPO, COMMIT, str(checkpoint))
        assert (loaded.prompt, loaded.sha256) == (expected.prompt, expected.sha256)
        assert torch.equal(
            loaded.model.h[0].attn.c_attn.weight, expected.model.h[0].attn.c_attn.weight
        )
    del fake.files["adapter_model.safetensors"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    fake.commit = OLD
    refused("someone/tiny: has no adapter_model.safetensors at revision")


@pytest.mark.parametrize("name", ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"])
def test_the_released_models_come_at_their_pinned_commit(fake, monkeypatch, name):
    fake.repo = f"openai-community/{name}"
    fake.commit = hub.PINNED[fake.repo]
    monkeypatch.setattr(hub, "SHA256", {})
    loaded = load_pretrained(name)
    assert (loaded.source, loaded.revision) == (fake.repo, fake.commit)
    assert all(f"/{fake.commit}/" in line for line in fake.asked)


def test_given_revision_wins_over_the_pinned_one(fake):
    fake.repo = "openai-community/gpt2"
    assert load_pretrained("gpt2", revision="main").revision == COMMIT


def test_broken_connection_is_retried(fake):
    fake.faults["model.safetensors"] = "breaks off once"
    assert load_pretrained(REPO).revision == COMMIT


# What is checked


@pytest.mark.parametrize("name", ["config.json", "vocab.json", "merges.txt", "model.safetensors"])
@pytest.mark.parametrize("fault", ["bit flip", "garbage"])
def test_damage_is_found_and_deleted(fake, cache, name, fault):
    fake.faults[name] = fault
    refused(f"{name}: .* deleted: expected hash {fake.etag(name)}, found [0-9a-f]+; try again")
    assert fake.etag(name) not in blobs(cache)
    assert not list(cache.glob(f"models--*/snapshots/*/{name}"))
    fake.faults.clear()
    assert load_pretrained(REPO).revision == COMMIT


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "model.safetensors"])
def test_released_file_with_another_hash_than_pinned_is_refused(fake, monkeypatch, name):
    fake.repo = "openai-community/gpt2"
    fake.commit = hub.PINNED[fake.repo]
    pinned = hub.SHA256[fake.repo, name]
    monkeypatch.setattr(hub, "SHA256", {(fake.repo, name): pinned})
    refused(f"{name}: arrived damaged and was deleted: expected hash {pinned}", "gpt2")


def test_new_commit_of_a_branch_is_hashed_again(fake):
    load_pretrained(REPO)
    fake.commit = OLD
    fake.files["config.json"] += b"\n"
    fake.faults["config.json"] = "garbage"
    refused("config.json: arrived damaged")


def test_cache_without_symbolic_links_is_read(fake, cache):
    folder, _ = hub.download(REPO)
    for path in list(folder.iterdir()):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    assert (
        load_pretrained(REPO, COMMIT).sha256
        == hashlib.sha256(fake.files["model.safetensors"]).hexdigest()
    )


# What fails


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (
            {"*": "gated"},
            "someone/tiny: .* at http://.*/someone/tiny, .*hf auth login",
        ),
        (
            {"*": "overloaded"},
            "cannot reach http://127.* .*503.*; try again, set HF_ENDPOINT .*HF_HUB_OFFLINE=1",
        ),
        ({"*": "too many requests"}, "cannot reach http://127.* .*429"),
        ({"*": "broken down"}, "cannot reach http://127.* .*500"),
        ({"*": "not found"}, "cannot reach http://127.* .*404"),
        ({"*": "forbidden"}, "cannot reach http://127.* .*403"),
        (
            {"*": "log-in page"},
            "cannot reach http://127.* .*does not seem to be served by a Hugging Face Hub",
        ),
        (
            {"*": "log-in elsewhere"},
            "cannot reach http://127.* .*does not seem to be served by a Hugging Face Hub",
        ),
        ({"model.safetensors": "overloaded"}, "someone/tiny: cannot reach"),
        ({"tokenizer_config.json": "overloaded"}, "someone/tiny: cannot reach"),
        (
            {"model.safetensors": "breaks off"},
            r"model.safetensors failed \(the connection to 127\S+ broke off\)",
        ),
        ({"vocab.json": "breaks off"}, r"vocab.json failed \(the connection to 127\S+ broke off\)"),
    ],
)
def test_fault_of_the_hub_is_one_line(fake, cache, faults, message):
    fake.faults = faults
    refused(message)
    assert not list(cache.glob("models--*/blobs/*.incomplete"))


def test_silent_hub_times_out(fake, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.1)
    monkeypatch.setattr(
        "huggingface_hub.file_download._ETAG_RETRY_TIMEOUT", 0.1
    )  # a minute, and it tries six times
    fake.faults["*"] = "stalls"
    refused(r"someone/tiny: cannot reach 127.0.0.1:\d+: timed out; ")


def test_unknown_repository_is_named(fake):
    refused(
        "some/other: no such repository at http://127.*, or a private one .*hf auth login",
        repo="some/other",
    )


def test_unknown_revision_is_named(fake):
    refused("someone/tiny: no revision 'v9'; expected a branch, a tag or a commit", revision="v9")


@pytest.mark.parametrize("name", ["config.json", "vocab.json", "merges.txt"])
def test_missing_file_of_a_repository_is_named(fake, name):
    del fake.files[name]
    refused(f"someone/tiny: has no {name} at revision .*; is it a GPT-2 in Hugging Face format")


def test_repository_without_safetensors_is_refused(fake):
    fake.files["pytorch_model.bin"] = fake.files.pop("model.safetensors")
    refused("someone/tiny: .* model.safetensors nor model.safetensors.index.json; .* safetensors")


@pytest.mark.parametrize("name", ["no such name", "a--b", "a/b:c"])
def test_malformed_repository_name_is_refused(fake, name):
    refused(f"{name}'.* `owner/name`", repo=name)


def test_local_folder_named_like_the_owner_does_not_hide_the_hub(
    fake, cache, tmp_path, monkeypatch
):
    (tmp_path / "someone").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_pretrained(REPO).revision == COMMIT
    refused(
        r"someone/other: no such repository .*; and .*someone holds no other$", repo="someone/other"
    )


def test_unreachable_hub_is_named(cache, monkeypatch):
    use(monkeypatch, "http://127.0.0.1:9", cache)
    refused(
        "cannot reach 127.0.0.1:9: refused; try again, set HF_ENDPOINT to a mirror, or give a local"
    )
    close_session()


def test_password_in_the_address_is_not_printed(cache, monkeypatch):
    use(monkeypatch, "http://me:secret@127.0.0.1:9", cache)
    refused("someone/tiny: cannot reach 127.0.0.1:9: refused; (?!.*secret)")
    close_session()


def test_offline_without_the_file_is_an_error(cache, monkeypatch):
    use(monkeypatch, "http://127.0.0.1:9", cache)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused("someone/tiny: config.json is not in the cache .* and HF_HUB_OFFLINE is set")


def test_full_disk_is_named(fake, monkeypatch):
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    refused(
        "someone/tiny: no space left for config.json in .*cache; free some, or set HF_HUB_CACHE"
    )


def test_unwritable_cache_is_an_error(fake, cache):
    cache.write_text("a file")
    refused("the download of config.json failed")


def test_hub_is_set_up_by_environment_variables(fake, cache, tmp_path):
    """In a process of its own, from the hub and then offline."""
    program = "from sft.checkpoint.hub import download; print(*download('someone/tiny'))"
    environment = os.environ | {
        "HF_ENDPOINT": fake.url,
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_OFFLINE": "0",
    }
    environment["TQDM_POSITION"] = "-1"  # shows progress bars where there is no terminal, too
    arguments = {"capture_output": True, "text": True, "check": True}
    first = subprocess.run([sys.executable, "-c", program], env=environment, **arguments)
    assert first.stdout.split() == [
        str(cache / "models--someone--tiny" / "snapshots" / COMMIT),
        COMMIT,
    ]
    assert "model.safetensors" in first.stderr  # the progress bar
    fake.asked.clear()
    again = subprocess.run(
        [sys.executable, "-c", program], env=environment | {"HF_HUB_OFFLINE": "1"}, **arguments
    )
    assert again.stdout == first.stdout
    assert fake.asked == []


def test_copy_of_the_cache_folder_is_a_checkpoint(fake, tmp_path):
    folder, _ = hub.download(REPO)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert load_pretrained(copy).sha256 == load_pretrained(REPO).sha256
