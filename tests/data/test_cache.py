"""The cache: arrays are made once, a damaged file is made again, and no fault stops a run."""

import errno
import logging
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sft.data import cache
from sft.data.cache import Arrays, cached

VALUES = {
    "ids": np.arange(10_000, dtype=np.uint16),
    "hash": np.array([2**64 - 1], np.uint64),
    "none": np.zeros(0, "i8"),
}


class Maker:
    """Gives VALUES and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Arrays:
        self.calls += 1
        return dict(VALUES)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / f"tokens-{cache.VERSION}"


@pytest.fixture
def make() -> Maker:
    return Maker()


def same(found: Arrays) -> bool:
    return found.keys() == VALUES.keys() and all(
        found[name].dtype == array.dtype and np.array_equal(found[name], array)
        for name, array in VALUES.items()
    )


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_arrays_are_made_once(folder: Path, make: Maker) -> None:
    assert same(cached("a", make))
    assert same(cached("a", make))
    assert make.calls == 1
    assert kept(folder) == ["a.safetensors"]
    assert same(cached("b", make))
    assert make.calls == 2


def test_arrays_are_mapped_from_the_file(folder: Path, make: Maker) -> None:
    """Also by who made it: its own arrays would be a second copy."""
    makers, users = cached("a", make)["ids"], cached("a", make)["ids"]
    at = (folder / "a.safetensors").read_bytes().index(VALUES["ids"].tobytes())
    with (folder / "a.safetensors").open("rb+") as file:
        file.seek(at)
        file.write(b"\x07\x00")
    assert (makers[0], users[0]) == (7, 7)


@pytest.mark.parametrize("size", [0, 1, 7, 100, 20_000])
def test_a_damaged_file_is_made_again(
    folder: Path, make: Maker, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    cached("a", make)
    os.truncate(folder / "a.safetensors", size)
    with caplog.at_level(logging.INFO, "sft"):
        assert same(cached("a", make))
    [record] = caplog.records
    assert record.getMessage().endswith("; it is made again")
    assert same(cached("a", make))
    assert make.calls == 2
    assert kept(folder) == ["a.safetensors"]


def test_of_several_processes_one_makes_the_arrays(folder: Path) -> None:
    """One makes it, while the others wait."""
    begun, calls, found = threading.Event(), [], []

    def make() -> Arrays:
        calls.append(1)
        begun.wait(10)
        return dict(VALUES)

    threads = [threading.Thread(target=lambda: found.append(cached("a", make))) for _ in range(3)]
    for thread in threads:
        thread.start()
    begun.set()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert [same(arrays) for arrays in found] == [True] * 3


def full(*arguments: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def stays_in_memory(make: Maker, caplog: pytest.LogCaptureFixture) -> str:
    with caplog.at_level(logging.INFO, "sft"):
        assert same(cached("a", make))
    [record] = caplog.records
    assert record.getMessage().endswith("; they stay in memory")
    return record.getMessage()


@pytest.mark.parametrize("function", ["os.fsync", "os.replace", "sft.data.cache.save_file"])
def test_on_a_full_disk_arrays_stay_in_memory(
    folder: Path,
    make: Maker,
    function: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(function, full)
        assert "No space left on device" in stays_in_memory(make, caplog)
    assert kept(folder) == []
    assert same(cached("a", make))
    assert kept(folder) == ["a.safetensors"]


def test_without_a_cache_folder_arrays_stay_in_memory(
    folder: Path, make: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    folder.parent.write_text("a file")
    assert str(folder) in stays_in_memory(make, caplog)
    assert same(cached("b", make))

    # It is logged once.
    assert len(caplog.records) == 1


def test_arrays_are_cached_without_locks_too(
    folder: Path, make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(path: Path, timeout: float) -> None:
        # filelock raises this on a file system without flock(2).
        raise NotImplementedError("no flock here")

    monkeypatch.setattr("sft.atomic.FileLock", none)
    assert same(cached("a", make))
    assert kept(folder) == ["a.safetensors"]


def test_an_error_in_making_the_arrays_is_raised(folder: Path) -> None:
    with pytest.raises(OSError, match="No space"):
        cached("a", full)  # type: ignore[arg-type]
    assert kept(folder) == []


def test_a_cached_file_has_the_mode_of_any_new_file(folder: Path, make: Maker) -> None:
    cached("a", make)
    (folder / "plain").touch()
    assert (folder / "a.safetensors").stat().st_mode == (folder / "plain").stat().st_mode
