"""Data sets from the hub, which is a server on this machine: what is chosen, kept and refused."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from sft.config.schema import DataConfig
from sft.data.hub import files_of_part
from sft.data.sources import load_source
from sft.errors import InputError
from tests.fixtures.hub import COMMIT, LATER, REPO, FakeHub, served


def lines(numbers: range) -> bytes:
    items = [{"instruction": "a", "output": str(number)} for number in numbers]
    return "\n".join(map(json.dumps, items)).encode()


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    files = {
        "README.md": b"#",
        "dataset_infos.json": b"{}",
        "data/train-00001-of-00002.jsonl": lines(range(5, 9)),
        "data/train-00000-of-00002.jsonl": lines(range(5)),
        "data/test-00000-of-00001.jsonl.gz": gzip.compress(lines(range(9, 12))),
    }
    later = files | {"data/train-00001-of-00002.jsonl": lines(range(50, 52))}
    fake = FakeHub({COMMIT: files, LATER: later})
    with served(fake, tmp_path, monkeypatch):
        yield fake


def outputs(commit: str | None = None, **settings: Any) -> list[int]:
    source = load_source(DataConfig("hub", REPO, **settings), commit=commit)
    return [int(record.output) for record in source.records]


def refused(message: str, path: str = REPO, **settings: Any) -> None:
    with pytest.raises(InputError, match=message) as error:
        load_source(DataConfig("hub", path, **settings))
    assert "\n" not in str(error.value)


def test_the_parts_of_a_data_set(fake: FakeHub) -> None:
    source = load_source(DataConfig("hub", REPO))
    assert [int(record.output) for record in source.records] == list(range(9))
    assert (source.name, source.revision) == (REPO, COMMIT)
    assert COMMIT in source.notes[0]
    assert outputs(part="test") == [9, 10, 11]
    refused("data.part: 'dev' is not there; someone/questions has train, test", part="dev")


def test_a_run_keeps_its_commit(fake: FakeHub) -> None:
    before = load_source(DataConfig("hub", REPO))
    fake.newest = LATER
    assert outputs() == [0, 1, 2, 3, 4, 50, 51]
    assert outputs(revision=COMMIT) == list(range(9))
    again = load_source(DataConfig("hub", REPO), before.sha256, before.revision)
    assert (again.sha256, again.revision) == (before.sha256, COMMIT)


def test_a_commit_in_the_cache_needs_no_request(fake: FakeHub) -> None:
    outputs()
    fake.asked.clear()
    assert outputs(revision=COMMIT) == outputs(commit=COMMIT) == list(range(9))
    assert fake.asked == []


@pytest.mark.parametrize("how", ["offline", "unreachable"])
def test_what_is_in_the_cache_is_used_without_a_network(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    outputs()
    fake.newest = LATER
    if how == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert outputs() == list(range(9))
    refused(r"^data.path: someone/questions: (not in the cache|cannot reach)", part="test")


def test_what_is_not_there_is_one_line(fake: FakeHub) -> None:
    refused("^data.path: someone/else: no such data set at http", path="someone/else")
    refused("^data.path: a/b/c: not the name of a data set", path="a/b/c")
    refused("no revision 'v9'", revision="v9")
    refused("no file of records for data.name=german", name="german")
    fake.status = 503
    refused(r"^data.path: someone/questions: the download failed \(HfHubHTTPError: ")


def test_a_damaged_file_is_deleted_and_fetched_again(fake: FakeHub) -> None:
    fake.damaged = True
    refused("arrived damaged and was deleted: expected hash [0-9a-f]{40}, ")
    fake.damaged = False
    assert outputs() == list(range(9))


def test_the_card_says_which_files(fake: FakeHub) -> None:
    files = {"de/a.csv": b"instruction,output\na,1\n", "en/b.csv": b"instruction,output\na,2\n"}
    fake.commits[COMMIT] = files | {"en/more/c.csv": b"instruction,output\na,3\n"}
    fake.card = {
        "configs": [
            {"config_name": "german", "data_files": "de/*"},
            {"config_name": "english", "data_files": [{"split": "all", "path": ["en/**"]}]},
        ]
    }
    assert outputs(name="german") == [1]
    assert outputs(name="english", part="all") == [2, 3]
    refused("^data.name: missing; someone/questions has german, english")
    refused("^data.name: 'french' is not there; .* german, english", name="french")
    refused("^data.part: 'train' is not there; someone/questions has all", name="english")


@pytest.mark.parametrize(
    ("names", "name", "part", "expected"),
    [
        (["a.json"], None, "train", ["a.json"]),
        (["b.csv", "a.csv", "LICENSE"], None, "train", ["a.csv", "b.csv"]),
        (["training/a.csv", "dev/b.csv"], None, "validation", ["dev/b.csv"]),
        (["training/a.csv", "dev/b.csv"], None, "train", ["training/a.csv"]),
        (["x/train.csv", "y/train.csv"], "y", "train", ["y/train.csv"]),
        (["train_sft.csv", "train_gen.csv"], None, "train_sft", ["train_sft.csv"]),
        (["data/sft-00000-of-00001.parquet"], None, "sft", ["data/sft-00000-of-00001.parquet"]),
    ],
)
def test_names_of_files_say_what_they_hold(
    names: list[str], name: str | None, part: str, expected: list[str]
) -> None:
    assert files_of_part(REPO, names, (), name, part, None) == expected


def test_what_the_hub_converted_lies_by_name_and_part() -> None:
    names = ["one/train/0000.parquet", "one/test/0000.parquet", "two/train/0000.parquet"]
    branch = "refs/convert/parquet"
    assert files_of_part(REPO, names, (), "one", "test", branch) == ["one/test/0000.parquet"]
    with pytest.raises(InputError, match=r"^data.name: missing; .* has one, two"):
        files_of_part(REPO, names, (), None, "train", branch)
