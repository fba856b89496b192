"""Whatever happens while a checkpoint is written, one is left that is whole."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sft.errors import InputError
from sft.training.checkpoints import NEEDED, CheckpointFiles, last, read_newest


def content(step: int) -> dict[str, Any]:
    known: dict[str, Any] = {
        "config": {},
        "made_of": {},
        "tracked": {},
        "watched": {},
        "global_step": step,
    }
    return known | {"weights": torch.full((9,), float(step))}


def save(folder: Path, step: int, files: CheckpointFiles | None = None) -> None:
    (files or CheckpointFiles()).save_checkpoint(content(step), last(folder))


def newest(folder: Path) -> int:
    path, found = read_newest(folder)
    assert torch.equal(
        CheckpointFiles().load_checkpoint(path)["weights"], content(found["global_step"])["weights"]
    )
    return int(found["global_step"])


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_the_last_two_checkpoints_are_kept_and_sha256sum_agrees(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    folder = last(tmp_path).parent
    assert newest(tmp_path) == 3
    assert CheckpointFiles().load_checkpoint(folder / "last-1.ckpt")["global_step"] == 2
    for name in ("last.ckpt.sha256", "last-1.ckpt.sha256"):
        subprocess.run(
            ["sha256sum", "--check", "--strict", name], cwd=folder, check=True, capture_output=True
        )
    assert len(list(folder.iterdir())) == 4


@pytest.mark.parametrize("call", range(1, 8))
def test_a_checkpoint_is_whole_wherever_saving_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Each file that moves into its place may be the last thing that happens."""
    save(tmp_path, 1)
    save(tmp_path, 2)
    move: Callable[..., None] = os.replace
    calls = 0

    def stop(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls >= call:
            raise KeyboardInterrupt
        move(*arguments)

    monkeypatch.setattr("os.replace", stop)
    moves = (
        4  # the hash steps aside, the checkpoint does, the new hash comes, the new checkpoint does
    )
    if call <= moves:
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 3)
    else:
        save(tmp_path, 3)
    monkeypatch.undo()
    assert calls == min(call, moves)
    assert newest(tmp_path) == (3 if call > moves else 2)
    save(tmp_path, 4)
    assert newest(tmp_path) == 4


def test_a_damaged_checkpoint_is_passed_over_and_does_not_replace_a_good_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    damage(last(tmp_path))
    path, found = read_newest(tmp_path)
    assert (path.name, found["global_step"]) == ("last-1.ckpt", 1)
    assert re.search(r"last\.ckpt: .*damaged \(sha256 .*last-1\.ckpt", caplog.text)
    files = CheckpointFiles()
    files.load_checkpoint(path)
    save(tmp_path, 2, files)  # must not push the good one out with the damaged one
    assert CheckpointFiles().load_checkpoint(path)["global_step"] == 1
    save(tmp_path, 3, files)
    assert CheckpointFiles().load_checkpoint(path)["global_step"] == 2


def test_two_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    damage(last(tmp_path))
    damage(last(tmp_path).with_name("last-1.ckpt"))
    with pytest.raises(InputError, match=r"last-1\.ckpt: .*\(sha256"):
        read_newest(tmp_path)
    last(tmp_path).with_name("last-1.ckpt").unlink()
    with pytest.raises(InputError, match=r"last\.ckpt: .*\(sha256"):
        read_newest(tmp_path)


def test_a_checkpoint_without_its_hash_is_read_unless_it_is_cut_short(tmp_path: Path) -> None:
    save(tmp_path, 1)
    last(tmp_path).with_name("last.ckpt.sha256").unlink()
    assert newest(tmp_path) == 1
    last(tmp_path).write_bytes(last(tmp_path).read_bytes()[:900])
    with pytest.raises(InputError, match="damaged"):
        read_newest(tmp_path)


def test_a_checkpoint_without_its_hash_does_not_inherit_an_older_one(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    last(tmp_path).with_name("last.ckpt.sha256").unlink()
    save(tmp_path, 3)
    damage(last(tmp_path))
    assert newest(tmp_path) == 2


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    last(tmp_path).parent.mkdir()
    torch.save(content(1) | {"config": Trap()}, last(tmp_path))
    with pytest.raises(InputError, match="damaged"):
        read_newest(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("missing", NEEDED)
def test_a_checkpoint_of_another_version_is_refused_by_key(tmp_path: Path, missing: str) -> None:
    found = content(1)
    del found[missing]
    CheckpointFiles().save_checkpoint(found, last(tmp_path))
    with pytest.raises(
        InputError,
        match=rf"last\.ckpt: .*\bwithout {missing}\b",
    ):
        read_newest(tmp_path)
