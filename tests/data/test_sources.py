"""Records from files and from the web: what is read, what is refused, and what is left behind."""

import errno
import gzip
import hashlib
import json
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import requests
import yaml
from pyarrow import parquet

from sft.config.schema import DataConfig
from sft.data import sources
from sft.data.cache import cache_folder
from sft.data.overview import contents_text
from sft.data.records import Record
from sft.data.sources import download, load_source
from sft.errors import InputError

REAL = Path(os.environ["SFT_DATA_DIR"]) if "SFT_DATA_DIR" in os.environ else None
DATA = json.dumps(
    [{"instruction": f"say {i}", "input": "", "output": str(i)} for i in range(300)]
).encode()


# Files


def mine(path: Path | str, **settings: Any) -> DataConfig:
    return DataConfig(source="json", path=str(path), **settings)


def test_a_file_is_read_and_hashed(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(DATA)
    source = load_source(mine(path))
    assert source.records[299] == Record("say 299", "", "299")
    assert len(source.records) == 300
    assert (source.path, source.sha256) == (path, hashlib.sha256(DATA).hexdigest())


@pytest.mark.parametrize("seed", [123, 0])
def test_a_sample_is_pythons_own(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(DATA)
    sample = load_source(mine(path, sample=40, sample_seed=seed)).records
    assert [int(record.output) for record in sample] == random.Random(seed).sample(range(300), 40)


def part(numbers: range) -> str:
    return json.dumps([{"instruction": "a", "output": str(number)} for number in numbers])


def outputs(path: Path | str | list[str], **settings: Any) -> list[int]:
    config = DataConfig("file", path if isinstance(path, list) else str(path), **settings)
    return [int(record.output) for record in load_source(config).records]


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A folder with the numbers 0 to 8 in three files, and files that hold no records."""
    folder = tmp_path / "parts"
    (folder / "more.json").mkdir(parents=True)
    for name in ("README.md", "LICENSE", ".hidden.json"):
        (folder / name).write_text("no records")
    (folder / "b.json").write_text(part(range(3, 6)))
    (folder / "a.json.gz").write_bytes(gzip.compress(part(range(3)).encode()))
    (folder / "c.CSV").write_text("instruction,output\na,6\na,7\na,8\n")
    return folder


def test_files_of_a_folder_a_pattern_and_a_list(parts: Path) -> None:
    assert outputs(parts) == list(range(9))
    assert outputs(f"{parts}/?.json*") == list(range(6))
    assert outputs(f"{parts.parent}/**/[bc].*") == list(range(3, 9))
    assert outputs([f"{parts}/c.CSV", f"{parts}/*.gz"]) == [6, 7, 8, 0, 1, 2]
    assert sorted(outputs(parts, sample=9)) == list(range(9))


def test_files_of_a_folder_may_have_different_shapes(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "1"}]
    shared = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "2"}]
    (tmp_path / "a.json").write_text(part(range(1)))
    (tmp_path / "b.jsonl").write_text(json.dumps({"messages": turns}))
    (tmp_path / "c.jsonl").write_text(json.dumps({"conversations": shared}))
    (tmp_path / "d.csv").write_text("question,answer\na,3\n")
    source = load_source(DataConfig("file", str(tmp_path)))
    assert [int(record.output) for record in source.records] == [0, 1, 2, 3]
    text = contents_text(source.contents)
    for shape in ("instruction", "messages", "ShareGPT", "question/answer"):
        assert f"1 record, {shape} format" in text


def test_the_hash_of_several_files_is_of_their_contents_in_order(parts: Path) -> None:
    def sha256(*names: str) -> str:
        return load_source(DataConfig("file", [str(parts / name) for name in names])).sha256

    alone = hashlib.sha256((parts / "b.json").read_bytes()).hexdigest()
    assert sha256("b.json") == alone
    before = sha256("b.json", "c.CSV")
    assert before != sha256("c.CSV", "b.json")
    (parts / "b.json").rename(parts / "d.json")
    assert sha256("d.json", "c.CSV") == before


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing", "{parts}/nothing: a folder without a file of records"),
        ("*.txt", "data.path: no file matches {parts}/\\*.txt$"),
        (["*.json", "b.json"], "data.path: {parts}/b.json is named twice"),
        (["b.json", "e.json"], "{parts}/e.json: no such file"),
    ],
)
def test_paths_without_files_are_named(parts: Path, path: Any, message: str) -> None:
    (parts / "nothing").mkdir()
    path = [path] if isinstance(path, str) else path
    with pytest.raises(InputError, match=message.format(parts=parts)):
        outputs([str(parts / name) for name in path])


def test_a_fault_is_named_by_its_file_and_its_record_there(parts: Path) -> None:
    (parts / "b.json").write_text('[{"instruction": "a", "output": "1"}, {"output": "2"}]')
    with pytest.raises(InputError, match=rf"^{parts}/b.json: record 2: no 'instruction'"):
        outputs(parts)


def test_a_wrapper_is_said(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"data": json.loads(part(range(4)))}))
    [note] = load_source(mine(path)).notes
    assert str(path) in note
    assert "4 in 'data'" in note


def test_a_sample_of_all_and_of_more(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(DATA)
    assert len(load_source(mine(path, sample=300)).records) == 300
    with pytest.raises(InputError, match=r"^data.sample: 301 .* 300 .*mine\.json"):
        load_source(mine(path, sample=301))


@pytest.mark.parametrize("sample", [None, 40])
def test_records_come_one_by_one_and_again(tmp_path: Path, sample: int | None) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(DATA)
    source = load_source(mine(path, sample=sample))
    assert list(source.stream()) == list(source.stream()) == source.records
    assert len(source.records) == len(source.chosen) == (sample or 300)


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(DATA)
    source = load_source(mine(path))
    path.write_bytes(DATA.replace(b"299", b"300"))
    with pytest.raises(InputError, match=r"^.*mine\.json: changed"):
        list(source.stream())


def test_a_large_file_is_counted_once(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "SMALL", 0)
    path = tmp_path / "mine.json"
    path.write_bytes(DATA)
    source = load_source(mine(path))
    with monkeypatch.context() as patch:
        patch.setattr(sources, "stream_records", None)
        assert load_source(mine(path)) == source
        assert len(load_source(mine(path, sample=40)).chosen) == 40
    path.write_bytes(DATA[:-1] + b"," + DATA[1:])
    assert len(load_source(mine(path)).chosen) == 600


@pytest.mark.parametrize("small", [0, 1 << 20])
def test_unused_keys_come_from_the_cache_too(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    monkeypatch.setattr(sources, "SMALL", small)
    path = tmp_path / "mine.json"
    items = [
        {"instruction": "a", "output": "b", "\ud800": 1} | ({"context": "c"} if i % 2 else {})
        for i in range(9)
    ]
    path.write_text(json.dumps(items))
    # The keys are counted, then found in the cache.
    for _ in range(2):
        source = load_source(mine(path, sample=2))
        assert source.unused == {"\ud800": 9, "context": 4}
        assert list(source.unused) == ["\ud800", "context"]


@pytest.mark.parametrize("small", [1 << 20, 0], ids=["small", "large"])
def test_a_key_like_one_that_is_absent_stops_new_runs_alone(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    monkeypatch.setattr(sources, "SMALL", small)
    path = tmp_path / "mine.json"
    path.write_text('[{"instruction": "a", "Input": "b", "output": "c"}]')
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    for known in (None, "0" * 64, sha256, None):  # also after the cache knows the file
        if known == sha256:
            source = load_source(DataConfig("json", str(path)), known)
            assert source.unused == {"Input": 1}
            assert source.records == [Record("a", "", "c")]
        else:
            with pytest.raises(InputError, match=r"record 1: 'Input' is not read"):
                load_source(DataConfig("json", str(path)), known)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "{path}: no such file; give data.path= a file of records"),
        (lambda path: path.mkdir(), "{path}: a folder without a file of records"),
        (
            lambda path: path.symlink_to(path),
            "{path}: cannot be read (Too many levels of symbolic links)",
        ),
        (lambda path: path.write_text("[{"), "{path}: not JSON at line 1, column 3 "),
    ],
)
def test_an_unreadable_file_is_named(
    tmp_path: Path, make: Callable[[Path], Any], message: str
) -> None:
    path = tmp_path / "mine.json"
    make(path)
    with pytest.raises(InputError) as error:
        load_source(mine(path))
    assert str(error.value).startswith(message.format(path=path))


def test_the_message_names_the_key_of_a_split_whose_file_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('[{"instruction": "a", "output": "b"}]')
    for test in ("none.json", "none*.json"):
        config = DataConfig("file", str(path), test=str(tmp_path / test))
        with pytest.raises(InputError, match=r"data\.test"):
            load_source(config)


def test_a_file_without_records_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    parquet.write_table(pa.table({"question": pa.array([], pa.string())}), path)
    with pytest.raises(InputError, match=r"mine\.parquet: no records"):
        load_source(mine(path))


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    """A reader would wait for a writer, and a second one for another."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        with pytest.raises(InputError, match=rf"/{name}: a pipe, .* data.path=FILE$"):
            load_source(mine(tmp_path / name))

    # This is what a shell makes of <(...).
    read, write = os.pipe()
    with pytest.raises(InputError, match=rf"/dev/fd/{read}: a pipe, "):
        load_source(mine(f"/dev/fd/{read}"))
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null"])
def test_a_device_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"^{name}: a device, "):
        load_source(mine(name))


def test_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The path of a socket may not be long.
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        with pytest.raises(InputError, match=r"/s: a socket, "):
            load_source(mine("s"))


def test_standard_input_from_a_file_is_that_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(DATA)
    with path.open() as file:
        source = load_source(mine(f"/dev/fd/{file.fileno()}"))
    assert source.path == path
    assert len(source.records) == 300


def test_a_path_in_a_home_folder_that_does_not_exist_is_named() -> None:
    with pytest.raises(InputError, match=r"~nobody-of-that-name/mine.json: no such file"):
        load_source(mine("~nobody-of-that-name/mine.json"))


def test_the_embedded_records_are_whole() -> None:
    records = load_source(DataConfig(source="nano")).records

    # 85% of them are at least 1,100.
    assert len(records) >= 1294
    assert all(record.instruction and record.output and record.category for record in records)


# Downloads


@dataclass
class Site:
    """A server on this machine, and how it answers. A header without a value is not sent."""

    content: bytes = DATA
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    asked: int = 0
    url: str = ""


def handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            site.asked += 1
            self.send_response(site.status)
            for name, value in ({"Content-Length": str(len(site.content))} | site.headers).items():
                if value:
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(site.content)
            self.close_connection = True

    return Handler


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def site(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The server, as the place of `alpaca`."""
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(site))
    site.url = f"http://127.0.0.1:{server.server_port}/alpaca_data.json"
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    ).start()
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(ALPACA, "url", site.url)
    yield site
    server.shutdown()
    server.server_close()


ALPACA = DataConfig(source="alpaca")


def failed() -> str:
    with pytest.raises(InputError) as error:
        load_source(ALPACA)
    assert "\n" not in str(error.value)
    return str(error.value)


def files(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


def test_a_data_set_is_fetched_once(site: Site, cache: Path) -> None:
    source = load_source(ALPACA)
    assert source.records == [Record(f"say {i}", "", str(i)) for i in range(300)]
    assert source.sha256 == hashlib.sha256(DATA).hexdigest()
    assert files(cache) == [source.path]
    assert list(cache.iterdir()) == [source.path]
    site.status = 500
    assert load_source(ALPACA) == source
    assert site.asked == 1


def test_what_is_in_the_cache_needs_no_network(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    path = load_source(ALPACA).path
    monkeypatch.setattr(socket, "socket", None)
    monkeypatch.setattr(socket, "create_connection", None)
    assert load_source(ALPACA).path == path


def test_a_download_with_the_right_hash_is_used(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ALPACA, "sha256", hashlib.sha256(DATA).hexdigest())
    assert len(load_source(ALPACA).records) == 300


def test_a_download_compressed_on_the_way_is_unpacked(site: Site) -> None:
    site.content, site.headers = gzip.compress(DATA), {"Content-Encoding": "gzip"}
    assert load_source(ALPACA).sha256 == hashlib.sha256(DATA).hexdigest()


def test_a_download_without_a_size_is_read(site: Site) -> None:
    site.headers = {"Content-Length": ""}
    assert len(load_source(ALPACA).records) == 300


CUT = DATA[:5000]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            {"content": CUT, "headers": {"Content-Length": str(len(DATA))}},
            "the download failed (",
        ),
        ({"content": CUT, "headers": {"Content-Length": ""}}, "not JSON at line 1, column 5"),
        (
            {"content": b"", "headers": {"Content-Length": str(len(DATA))}},
            "the download failed (the connection to 127",
        ),
        ({"content": b""}, "empty, expected a JSON array"),
        (
            {"status": 404, "content": b"404: Not Found"},
            "the download failed (404 Client Error: Not Found for url",
        ),
        ({"status": 500}, "the download failed (500 Server Error"),
        (
            {"content": b"<!DOCTYPE html><html>Log in</html>"},
            "not JSON at line 1, column 1 (Expecting value)",
        ),
        ({"content": b"[1, 2]"}, "record 1: a number instead of an object"),
        ({"headers": {"Content-Encoding": "gzip"}}, "the download failed ("),
        (
            {"content": gzip.compress(DATA)[:900], "headers": {"Content-Encoding": "gzip"}},
            "not JSON at line 1, column ",
        ),
        (
            {"status": 302, "headers": {"Location": "http://127.0.0.1:1/elsewhere"}},
            "the download failed (cannot reach 127.0.0.1:1: ",
        ),
        ({"headers": {"Content-Length": "many"}}, "the download failed ("),
    ],
)
def test_a_failed_download_leaves_no_file(
    site: Site, cache: Path, answer: dict[str, Any], message: str
) -> None:
    good = dict(vars(site))
    for name, value in answer.items():
        setattr(site, name, value)
    assert failed().startswith(f"{site.url}: {message}")
    assert files(cache) == []
    vars(site).update(good)
    assert len(load_source(ALPACA).records) == 300


def test_a_short_file_that_the_http_library_lets_pass(
    site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.headers = {"Content-Length": ""}
    get = requests.get

    def lenient(*arguments: Any, **options: Any) -> requests.Response:
        response = get(*arguments, **options)
        response.headers["Content-Length"] = "1000000"
        return response

    monkeypatch.setattr(requests, "get", lenient)
    assert failed().startswith(
        f"{site.url}: the download failed (it broke off after {len(DATA)} of 1000000 bytes); "
    )
    assert files(cache) == []


def test_a_failed_download_says_what_to_do(site: Site) -> None:
    site.status = 404
    assert failed().endswith("); try again, or use a file you have: data=file data.path=FILE")


def test_a_download_with_the_wrong_hash_is_refused(
    site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ALPACA, "sha256", "0" * 64)
    actual = hashlib.sha256(DATA).hexdigest()
    assert failed().startswith(f"{site.url}: sha256 {actual}, expected {'0' * 64}; ")
    assert files(cache) == []


def test_an_unreachable_server_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(ALPACA, "url", "http://127.0.0.1:9/x")
    line = failed()
    assert line.startswith(
        "http://127.0.0.1:9/x: the download failed (cannot reach 127.0.0.1:9: refused); "
    )
    assert files(cache) == []


def test_a_full_disk_during_a_download_is_named(
    site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert failed().startswith(
            f"{site.url}: the download failed ([Errno 28] No space left on device); "
        )
    assert files(cache) == []


def test_a_cache_folder_that_is_a_file_is_named(site: Site, cache: Path) -> None:
    cache.write_text("a file")
    assert failed().startswith(
        f"{site.url}: the download failed ([Errno 17] File exists: '{cache}'); "
    )


def test_an_interrupted_download_leaves_nothing(
    site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(url: str, part: Path, label: str) -> None:
        part.write_bytes(DATA)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sources, "fetch_rest", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_source(ALPACA)
    assert files(cache) == []


def test_each_source_has_a_file_of_its_own(site: Site) -> None:
    names = {
        download("one", site.url),
        download("two", site.url),
        download("one", site.url + "?v2"),
    }
    assert len(names) == 3
    assert site.asked == 3


def published(name: str) -> dict[str, Any]:
    return yaml.safe_load(
        (Path(__file__).parents[2] / "conf" / "data" / f"{name}.yaml").read_text()
    )


def test_the_sources_on_the_web_are_pinned_or_known() -> None:
    instructions, alpaca = published("instructions"), published("alpaca")
    assert (
        instructions["sha256"] == "7e09a9af353722ca15c18bc580f093f9c39d3178335a75177319cb1e1d163944"
    )
    assert "/rasbt/LLMs-from-scratch/" in instructions["url"]
    assert "/main/" not in instructions["url"]
    assert "/tatsu-lab/stanford_alpaca/" in alpaca["url"]


def test_a_pinned_file_that_changed_in_the_cache(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ALPACA, "sha256", hashlib.sha256(DATA).hexdigest())
    path = load_source(ALPACA).path
    path.write_bytes(path.read_bytes() + b" ")
    assert f"{path}: sha256 " in failed()
    assert f"expected {ALPACA.sha256}; delete the file" in failed()


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("SFT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path("/home/me/.cache/sft")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/sft")
    monkeypatch.setenv("SFT_CACHE", "/mine")
    assert cache_folder() == Path("/mine")


# The published file


@pytest.mark.skipif(REAL is None, reason="needs the 1,100 instructions in SFT_DATA_DIR")
def test_the_published_file_has_its_hash_and_records(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert REAL is not None
    site.content = (REAL / "instruction-data.json").read_bytes()
    sha256 = published("instructions")["sha256"]
    source = load_source(DataConfig(source="instructions", url=site.url, sha256=sha256))
    assert len(source.records) == 1100
    assert source.sha256 == sha256
    assert source.records[50] == Record(
        "Identify the correct spelling of the following word.",
        "Ocassion",
        "The correct spelling is 'Occasion.'",
    )
