"""A run has a folder of its own, or resumes the one that `resume=` names."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sft import folders
from sft.checkpoint.folder import load_pretrained
from sft.claims import _said
from sft.latest import warn_of_latest
from tests.commands import line


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_has_a_new_folder_or_the_one_it_resumes(tmp_path: Path) -> None:
    assert folders.run_folder(None, "fresh") == folders.run_folder("", "fresh") == "fresh"
    assert (
        folders.run_folder(str(tmp_path), "fresh")
        == folders.run_folder(str(tmp_path / "no"), "fresh")
        == "fresh"
    )
    assert (
        folders.hydra_folder(str(tmp_path))
        == folders.hydra_folder(str(tmp_path / "no"))
        == ".hydra"
    )
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)

    # A run that was killed while it wrote its first checkpoint cannot be resumed.
    (tmp_path / "run" / "checkpoints" / ".last.ckpt.part").touch()
    assert folders.run_folder(str(tmp_path / "run"), "fresh") == "fresh"
    (tmp_path / "run" / "checkpoints" / "last-1.ckpt").touch()
    (tmp_path / "latest").symlink_to("run")
    assert folders.run_folder(str(tmp_path / "latest"), "fresh") == str(tmp_path / "run")
    assert folders.hydra_folder(str(tmp_path / "run")) is None
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "latest").symlink_to("../run")
    assert folders.run_folder("latest", "fresh") == str(tmp_path / "run")
    (tmp_path / "auto").symlink_to("run")
    assert folders.run_folder("auto", "fresh") == "fresh"


def test_resume_auto_begins_and_resumes_and_latest_is_the_newest(
    command: Callable[..., None], checkpoint: Path, tmp_path: Path
) -> None:
    records = [{"instruction": f"Say {i}.", "output": "ok"} for i in range(40)]
    (tmp_path / "mine.json").write_text(json.dumps(records))
    tiny = [
        f"model.checkpoint={checkpoint}",
        "model.allow_untrained=true",
        "eval.every=0",
        "eval.sample=false",
    ]
    tiny += ["data=json", "data.path=mine.json", "device=cpu", "precision=32", "logger=none"]
    refused = line(command, *tiny, "resume=auto")
    assert refused.startswith("resume: auto ")
    assert "hydra.run.dir=FOLDER" in refused
    before = {*Path("outputs").rglob("*")}
    for steps in (2, 3):
        command(*tiny, "resume=auto", "hydra.run.dir=run", f"max_steps={steps}")
        assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == steps
    command("resume=latest", "max_steps=4")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 4
    assert {*Path("outputs").rglob("*")} - before == {Path("outputs/latest")}


@pytest.mark.parametrize("file", ["checkpoints/last.ckpt", "summary.json"])
@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["hydra.run.dir=sweep/0"], "hydra.run.dir"),
        (["-m", "hydra.sweep.dir=sweep"], "hydra.sweep.dir"),
    ],
)
def test_a_new_run_does_not_overwrite_another_in_its_folder(
    command: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    file: str,
    arguments: list[str],
    key: str,
) -> None:
    """Hydra's own files, which it writes before it calls us, are not overwritten either."""
    texts = {Path("sweep/0", file): "{}", Path("sweep/0/.hydra/overrides.yaml"): "- seed=5\n"}
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with pytest.raises(SystemExit) as end:
        command(*arguments, "seed=6")
    told = f"{end.value.code}{capsys.readouterr().err}"
    assert f"{key}: {Path('sweep/0').absolute()} holds a run; " in told
    assert "resume=auto" in told
    if file == "summary.json":
        told = line(command, "hydra.run.dir=sweep/0", "resume=auto")
        assert "sweep/0 holds a run without its checkpoints" in told
    assert {
        path: path.read_text() for path in Path("sweep/0").rglob("*") if path.is_file()
    } == texts


def test_a_sweep_cannot_resume_one_run(
    command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command("resume=latest", "seed=1,2", "-m")
    shown = capsys.readouterr().err
    assert "resume: latest is one run" in shown
    assert "resume=auto hydra.sweep.dir=FOLDER" in shown


def test_resume_auto_in_a_sweep_needs_its_folder(command: Callable[..., None]) -> None:
    refused = line(command, "seed=1,2", "resume=auto", "-m")
    assert refused.startswith("resume: auto ")
    assert "hydra.sweep.dir=FOLDER" in refused
    assert not Path("outputs").exists()


def test_a_latest_that_is_no_link_is_warned_of(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Loading a model warns (chat, server, export, evaluation), and so does resuming a run."""

    shutil.copytree(checkpoint, "elsewhere/model")
    Path("outputs").mkdir()
    Path("outputs/latest").symlink_to("../elsewhere")
    for name in ("outputs/latest", "outputs/latest/model", "elsewhere"):
        load_pretrained(name, device="meta")
        warn_of_latest(name)
    assert caplog.text == ""

    Path("outputs/latest").unlink()
    shutil.copytree("elsewhere", "outputs/latest")
    for name in (
        "outputs/latest",
        "./outputs/latest/model",
        str(Path("outputs/latest").absolute()),
    ):
        _said.clear()
        caplog.clear()
        load_pretrained(name, device="meta")
        assert caplog.text.count("outputs/latest is a folder") == 1
    caplog.clear()
    load_pretrained("elsewhere", device="meta")
    assert caplog.text == ""
