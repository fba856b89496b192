"""`outputs/latest`, a link, or a file where links are not allowed: every command reads both."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from sft import folders
from sft.checkpoint.folder import load_pretrained
from sft.config.schema import ModelConfig
from sft.export import find_model
from sft.latest import followed, point, warn_of_latest
from sft.training.summary import peak_memory_bytes


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse symbolic links, as Windows does to most users."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)


@pytest.fixture
def run(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run, in a folder whose name has a space and a backslash."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs" / "2026-11-27" / "a run\\x"
    shutil.copytree(checkpoint, folder / "model")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").touch()
    return folder


def readers_find(run: Path) -> None:
    assert followed("outputs/latest").resolve() == run
    assert folders.run_folder("latest", "fresh") == str(run)
    assert Path(load_pretrained("outputs/latest").source) == run / "model"
    assert Path(load_pretrained("outputs/latest/model").source).resolve() == run / "model"
    assert find_model("outputs/latest").resolve() == run / "model"
    assert ModelConfig("outputs/latest/model").checkpoint == str(run / "model")


def test_a_link_leads_to_the_run(run):
    point(Path("outputs/latest"), run)
    assert os.readlink("outputs/latest") == "2026-11-27/a run\\x"
    readers_find(run)


def test_without_links_a_file_names_the_run(run, no_links, caplog):
    point(Path("outputs/latest"), run)
    assert Path("outputs/latest").read_text(encoding="utf-8") == "2026-11-27/a run\\x\n"
    readers_find(run)
    warn_of_latest("outputs/latest")
    assert caplog.text == ""

    other = run.with_name("ö")
    other.mkdir()
    point(Path("outputs/latest"), other)
    assert followed("outputs/latest").resolve() == other
    assert sorted(os.listdir("outputs")) == ["2026-11-27", "latest"]


def test_a_file_gives_way_to_a_link_and_a_link_to_a_file(run, monkeypatch):
    point(Path("outputs/latest"), run)
    with monkeypatch.context() as context:
        context.setattr(Path, "symlink_to", lambda *_, **__: (_ for _ in ()).throw(OSError))
        point(Path("outputs/latest"), run)
    assert Path("outputs/latest").is_file()
    assert not Path("outputs/latest").is_symlink()
    point(Path("outputs/latest"), run)
    assert Path("outputs/latest").is_symlink()


@pytest.mark.parametrize("content", [b"", b"none", b"a\nb", b"\xff", b"x" * 5000])
def test_another_file_of_that_name_stays(run, content, caplog):
    Path("outputs/latest").write_bytes(content)
    assert followed("outputs/latest/model") == Path("outputs/latest/model")
    point(Path("outputs/latest"), run)
    assert Path("outputs/latest").read_bytes() == content
    assert "is not a link" in caplog.text


def test_other_paths_are_returned_as_they_are():
    for path in ("outputs/run", "latest", "", "/no/latest/model"):
        assert followed(path) == Path(path)


def test_memory_is_not_counted_without_getrusage(monkeypatch):
    assert peak_memory_bytes("cpu") > 2**20
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_memory_bytes("cpu") == 0


def test_no_two_files_differ_by_case_alone():
    root = Path(__file__).parents[1]
    names = [
        path.relative_to(root).as_posix()
        for folder in ("sft", "conf", "docs", "tests")
        for path in (root / folder).rglob("*")
        if "__pycache__" not in path.parts
    ]
    assert len({name.lower() for name in names}) == len(names) > 300
    assert not [name for name in names if set(name) & set('<>:"|?*\\')]


def test_a_run_ends_without_links_locks_and_rusage(
    command, checkpoint, no_links, tmp_path, monkeypatch
):
    """The modules and calls that Windows lacks are missing, and the next command finds the run."""
    for name in ("fcntl", "resource"):
        monkeypatch.setitem(sys.modules, name, None)
    records = [{"instruction": f"Say {i}.", "output": f"{i}!"} for i in range(12)]
    (tmp_path / "mine.json").write_text(json.dumps(records))
    tiny = [f"model.checkpoint={checkpoint}", "model.allow_untrained=true", "precision=32"]
    quiet = ["eval.every=0", "eval.sample=false", "logger=none", "device=cpu"]
    command("data=json", "data.path=mine.json", "max_steps=1", *tiny, *quiet)
    assert Path("outputs/latest").is_file()
    run = followed("outputs/latest")
    assert json.loads((run / "summary.json").read_text())["peak_memory_bytes"] == 0
    assert Path(load_pretrained("outputs/latest").source) == (run / "model").resolve()
