import json
import math
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from sft.atomic import (
    locked,
    make_folder,
    read_json,
    read_numbers,
    replaced_folder,
    restore_folder,
    write_json,
)
from sft.errors import InputError
from sft.evaluation.answers import Answer, AnswerFile
from sft.training.checkpoints import NEEDED, CheckpointFiles, read_newest
from sft.training.metrics_file import MetricsFile


def test_what_is_no_number_is_null(tmp_path: Path) -> None:
    write_json(
        tmp_path / "a.json", {"x": [math.nan, (math.inf, 1.5)], "é": {"y": -math.inf, "z": True}}
    )
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"x": [None, [None, 1.5]], "é": {"y": None, "z": True}}
    assert "é" in text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, r"\(No such file"),
        (b"", "not JSON"),
        (b"{", "not JSON.*line 1 column"),
        (b'{"a": "\xff"}', "not JSON.*0xff"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "expected a JSON object, found list"),
        (b"null", "expected a JSON object, found NoneType"),
    ],
)
def test_a_file_that_holds_no_json_object_is_named(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"^{path}: .*{problem}"):
        read_json(path)


def test_a_json_object_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"é": [1, None]})
    assert read_json(tmp_path / "a.json") == {"é": [1, None]}


def test_a_row_that_was_cut_off_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n9,0.5\n10,1e-")
    assert read_numbers(path) == [{"step": 9, "loss": 0.5}]
    path.write_text("step,loss\n9,0.5\n1")
    assert read_numbers(path) == [{"step": 9, "loss": 0.5}]


@pytest.mark.parametrize("moved", ["neither", "the old one", "both"])
def test_a_folder_killed_in_the_middle_of_its_replacement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a").write_text("old")
    renames = {"neither": 0, "the old one": 1, "both": 2}[moved]
    rename, killed = Path.rename, []

    def kill(path: Path, target: Path) -> Path:
        if len(killed) == renames:
            raise KeyboardInterrupt
        killed.append(path)
        return rename(path, target)

    def none(*_: object, **__: object) -> None:
        """A process that was killed tidies nothing up."""

    monkeypatch.setattr(Path, "rename", kill)
    monkeypatch.setattr("shutil.rmtree", none)
    with suppress(KeyboardInterrupt), replaced_folder(folder, {"a"}, kept="b") as beside:
        (beside / "a").write_text("new")
    monkeypatch.undo()
    assert restore_folder(folder)
    assert (folder / "a").read_text() == ("old" if moved == "neither" else "new")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_two_writers_of_one_folder_leave_each_other_alone(tmp_path: Path) -> None:
    with replaced_folder(tmp_path / "model", {"a"}, kept="b") as first:
        (first / "a").write_text("first")
        with replaced_folder(tmp_path / "model", {"a"}, kept="b") as second:
            (second / "a").write_text("second")
        assert (tmp_path / "model" / "a").read_text() == "second"
    assert (tmp_path / "model" / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_half_a_character_is_replaced(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": "a\ud800b"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"x": "a?b"}


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    (tmp_path / ".a.json.part").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"a\.json: cannot be written \(No space left on device\)"):
        write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


WRITTEN = r"last\.ckpt: cannot be written \((File too large|No space left on device)\)"


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """Limit the size of files that this process writes. The next byte fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def add_row(path: Path) -> None:
    file = MetricsFile(path)
    file.resume(0)
    for _ in range(100_000):
        file.append({"step": len(file.rows)})


def add_answer(path: Path) -> None:
    file = AnswerFile(path)
    for number in range(1000):
        file.add(str(number), Answer("one" * 1000, 1, "stop"))


def write_checkpoint(path: Path) -> None:
    for step in (1, 2, 3):
        content = {key: {} for key in NEEDED} | {
            "global_step": step,
            "w": torch.ones(100 * 10**step),
        }
        CheckpointFiles().save_checkpoint(content, path)


@pytest.mark.parametrize("write", [add_row, add_answer, write_checkpoint])
def test_a_write_that_comes_to_its_end_halfway(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    """The system itself ends it, not a function that stands in for it."""
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    with at_most(60_000), pytest.raises(InputError, match=WRITTEN):
        write(path)
    if write is write_checkpoint:
        assert read_newest(tmp_path)[1]["global_step"] == 2
        assert not list(path.parent.glob(".*"))
    else:
        assert path.stat().st_size <= 60_000
    if write is add_answer:
        assert AnswerFile(path).by_key["0"] == Answer("one" * 1000, 1, "stop")


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"folder: .*cannot be made"):
        make_folder(tmp_path / "file" / "folder")


def test_a_lock_refuses_another_and_is_free_again(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "lock"),
        pytest.raises(InputError, match="busy"),
        locked(tmp_path / "lock", refuse="busy"),
    ):
        raise AssertionError("two at once")
    with locked(tmp_path / "lock", refuse="busy"):
        pass


def test_where_there_are_no_locks_all_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    done = []
    with locked(tmp_path / "file" / "lock", refuse="busy"):
        done.append("in no folder")

    def none(path: Path, timeout: float) -> None:
        raise NotImplementedError("filelock raises this on a file system without flock(2)")

    monkeypatch.setattr("sft.atomic.FileLock", none)
    with locked(tmp_path / "lock", refuse="busy"):
        done.append("without flock")
    assert done == ["in no folder", "without flock"]


def test_what_only_begins_like_ours_stays(tmp_path: Path) -> None:
    others = [
        tmp_path / name for name in (".model.settings", ".model.backup.old", ".model.config12.old")
    ]
    ours = [tmp_path / name for name in (".model.0123abcd", ".model.0123abcd.old")]
    for folder in (*others, *ours, tmp_path / "model"):
        folder.mkdir()
    assert restore_folder(tmp_path / "model")
    assert {path.name for path in tmp_path.iterdir()} == {"model", *(path.name for path in others)}
