"""A command ends in one line where the user is at fault, on one device or several."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sft import command as without_hydra
from sft import launch
from sft.config.schema import TrainConfig
from sft.errors import InputError
from tests.commands import ROOT, line, python
from tests.config.test_choices import DATA, EXPERIMENTS, MODELS


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_settings_are_found_where_git_makes_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "conf").write_text("../conf")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "mine.yaml").write_text("setting: 5")
    monkeypatch.setattr(launch, "__file__", str(tmp_path / "sft" / "launch.py"))
    assert launch.composed("mine", []) == {"setting": 5}


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("optim.lrr=1", ["optim.lrr: ", "--help"]),
        ("bach_size=8", ["bach_size: ", "--help"]),
        ("+optim.lrr=1", ["optim.lrr: ", "lr, "]),
        ("model=gpt3", ["model: unknown value 'gpt3'", "gpt2-large, gpt2-medium"]),
        ("data=web", ["data: unknown value 'web'", "alpaca"]),
        ("experiment=x", ["experiment: unknown value 'x'", "alpaca-1k"]),
        ("data=null", ["data: null is not a choice"]),
        ("data=", ["data: unknown value ''", "alpaca"]),
        ("data=[nano,b]", ["data: cannot load 'b'"]),
        ("data.split=0.9,0.1,0", ["data.split: ", "data.split=[0.9,0.1,0]", "-m"]),
        ("batch_size", ["batch_size: ", "key=value ("]),
        ("data.split=[0.5,0.5", ["data.split=[0.5,0.5: ", "key=value ("]),
        ("model=gpt2-nano,gpt2-small", ["model: gpt2-nano,gpt2-small are several values", "-m"]),
        ("resume=${nope}", ["'nope'"]),
        ("data.path=${nope}", ["data.path: ", "'nope'"]),
        ("hydra/launcher=x", ["'hydra/launcher/x'", "'.[sweep]'"]),
        ("hydra.run.dir=/proc/no/such", ["'/proc/no'"]),
        ("batch_size=0", ["batch_size: ", "at least 1"]),
    ],
)
def test_a_mistake_is_one_line(
    command: Callable[..., None], argument: str, parts: list[str]
) -> None:
    message = line(command, argument)
    assert [part for part in parts if part not in message] == []

    # Nothing is left but what Hydra writes before it calls us.
    assert {path.name for path in Path("outputs").glob("*/*/*")} <= {".hydra"}
    assert not os.path.lexists("outputs/latest")


def test_a_refused_run_leaves_only_what_hydra_writes(command: Callable[..., None]) -> None:
    line(command, "model=gpt2-medium", "seed=-1")
    [folder] = Path("outputs").glob("*/*")
    assert re.fullmatch(r"outputs/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d-gpt2-medium", str(folder))
    assert {path.name for path in folder.rglob("*")} == {
        ".hydra",
        "config.yaml",
        "hydra.yaml",
        "overrides.yaml",
    }
    Path("run/checkpoints").mkdir(parents=True)
    Path("run/checkpoints/last.ckpt").touch()
    line(command, "resume=run")
    assert {*Path("run").rglob("*")} == {Path("run/checkpoints"), Path("run/checkpoints/last.ckpt")}
    assert [*Path("outputs").glob("*/*")] == [folder]


def fails(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make the run itself end in this error."""
    import train

    def fit(config: TrainConfig, folder: Path, changed: str) -> None:
        raise error

    monkeypatch.setattr(train, "fit", fit)


def test_a_message_of_several_lines_becomes_one(
    command: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fails(monkeypatch, InputError("one\ntwo"))
    assert line(command) == "one two"


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["hydra.run.dir=x"], ""),
        (
            ["hydra.sweep.dir=x", "-m"],
            "resume=auto hydra.sweep.dir=x",
        ),
    ],
)
def test_after_ctrl_c_only_a_sweep_names_the_command_that_resumes_it(
    command: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    advice: str,
) -> None:
    fails(monkeypatch, KeyboardInterrupt())
    with pytest.raises(SystemExit) as end:
        command(*arguments)
    assert end.value.code == 130
    shown = capsys.readouterr().err
    assert advice in shown
    assert ("resume=auto" in shown) is bool(advice)
    assert shown.splitlines()[-1].startswith("interrupted; ")


def test_a_full_disk_is_one_line(
    command: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fails(monkeypatch, OSError(errno.ENOSPC, "No space left on device", "metrics.csv"))
    assert line(command) == "[Errno 28] No space left on device: 'metrics.csv'"


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ValueError("another")])
def test_a_bug_keeps_its_traceback(
    command: Callable[..., None], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    fails(monkeypatch, error)
    with pytest.raises(type(error), match=str(error)):
        command()


@pytest.mark.parametrize("argument", ["batch_size=0", "optim.lrr=1"])
def test_hydra_full_error_keeps_the_exception(
    command: Callable[..., None], monkeypatch: pytest.MonkeyPatch, argument: str
) -> None:
    monkeypatch.setattr(launch, "FULL_ERROR", True)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(
        Exception, match=r"batch_size: 0 is out of range|Could not override 'optim.lrr'"
    ):
        command(argument)


def say_what_ascii_lacks() -> None:
    print("\u27e6", flush=True)


def test_a_letter_that_ascii_lacks_ends_no_process_of_several_devices(tmp_path: Path) -> None:
    program = (
        "import test_launch; from sft.launch import on_devices; "
        "on_devices(2, test_launch.say_what_ascii_lacks)"
    )
    paths = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    found = python("-c", program, cwd=tmp_path, PYTHONIOENCODING="ascii", PYTHONPATH=paths)
    assert (found.returncode, found.stdout) == (0, "?\n?\n"), found.stderr


def test_escape_sequences_in_an_error_are_made_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise InputError("record 1: \x1b[2J")

    monkeypatch.setattr(without_hydra, "FULL_ERROR", False)
    with pytest.raises(SystemExit, match=r"^error: record 1: \\x1b\[2J$"):
        without_hydra.command(refuse)


def test_one_device_needs_no_other_process() -> None:
    calls: list[tuple[int, ...]] = []
    launch.on_devices(1, lambda *numbers: calls.append(numbers), 1, 2)
    assert calls == [(1, 2)]


def fail_on_rank_1(how: str) -> None:
    if os.environ["RANK"] == "0":
        time.sleep(3600)
    if how == "exit":
        os._exit(7)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise RuntimeError("a bug\nof rank 1")


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("raise", RuntimeError, "process 1 of 2: RuntimeError: a bug\nof rank 1"),
        (
            "exit",
            InputError,
            r"^process 1 of 2 .* 7 .*resume=",
        ),
        (
            "killed",
            InputError,
            r"^process 1 of 2 .*SIGKILL.* memory.*resume=",
        ),
    ],
)
def test_the_failure_of_one_process_ends_all(
    how: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        launch.on_devices(2, fail_on_rank_1, how)


def torchrun(folder: Path, checkpoint: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Two steps of a tiny model in two processes that torchrun starts."""
    launcher = (
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--standalone",
        str(ROOT / "train.py"),
    )
    tiny = (
        f"model.checkpoint={checkpoint}",
        "model.allow_untrained=true",
        "data.prompt=alpaca",
        "max_steps=2",
        "eval.sample=false",
    )
    return python(
        *launcher, *tiny, "device=cpu", "precision=32", *arguments, cwd=folder, OMP_NUM_THREADS="1"
    )


def test_torchrun_starts_one_run_in_one_folder(tmp_path: Path, checkpoint: Path) -> None:
    done = torchrun(tmp_path, checkpoint, "devices=2", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "0", "1", "2"]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["config"]["devices"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("hydra.run.dir=run",),
            r"devices: 1, .*devices=2",
        ),
        (("devices=2",), r"hydra\.run\.dir: missing"),
    ],
)
@pytest.mark.parametrize("rank", ["0", "1"])
def test_torchrun_is_refused_where_it_would_make_two_runs(
    command: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    rank: str,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, rank)
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    assert re.match(message, line(command, *arguments, "device=cpu", "precision=32"))
    left = [path for path in Path().rglob("*") if path.is_file() and ".hydra" not in path.parts]
    assert left == []


HEAVY = {"torch", "lightning", "numpy", "tiktoken", "requests", "matplotlib", "transformers"}


@pytest.mark.parametrize(
    ("door", "argument", "code"),
    [
        ("train.py", "batch_size=0", 1),
        ("train.py", "optim.lrr=1", 1),
        ("train.py", "--help", 0),
        ("evaluate.py", "split=dev", 1),
        ("evaluate.py", "--help", 0),
    ],
)
def test_nothing_heavy_is_imported_for_a_quick_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, door: str, argument: str, code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    done = python("-X", "importtime", str(ROOT / door), argument)
    assert done.returncode == code
    imported = {
        text.rpartition("|")[2].strip().split(".")[0]
        for text in done.stderr.splitlines()
        if "|" in text
    }
    assert {"hydra", "omegaconf", "sft"} <= imported
    assert not imported & HEAVY
    said = [text for text in done.stderr.splitlines() if not text.startswith("import time:")]
    assert [text.startswith("error: ") for text in said] == [True] * code


def test_help_names_every_choice() -> None:
    text = python(str(ROOT / "train.py"), "--help").stdout
    for name in (*MODELS, *DATA, *EXPERIMENTS):
        assert re.search(rf"\b{name}\b", text), name
    assert re.search(r"batch_size: 8 +# Records", text)
    assert "$" not in text.partition("Settings")[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["seed=1", "-m", "optim.lr=1,2"],
        ["-m", "seed=1", "optim.lr=1,2"],
        ["seed=1", "optim.lr=1,2", "--multirun"],
    ],
)
def test_options_may_stand_between_overrides(
    command: Callable[..., None], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    done = []
    monkeypatch.setattr(
        "train.fit", lambda config, folder, changed: done.append((config.seed, config.optim.lr))
    )
    command(*arguments)
    assert done == [(1, 1.0), (1, 2.0)]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["seed=1", "--bogus"], "--bogus"),
        (["-x", "seed=1"], "-x"),
        (["--config-name"], "--config-name"),
        (["--cfg", "jobs"], "jobs"),
        (["--multirun=1"], "--multirun"),
    ],
)
def test_an_unknown_option_is_named_in_one_line(
    command: Callable[..., None], arguments: list[str], named: str
) -> None:
    assert named in line(command, *arguments)


@pytest.mark.parametrize(("file", "door"), [("command", "command"), ("launch", "run")])
def test_a_command_whose_output_nobody_reads_prints_an_error(file: str, door: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    code = f"from sft.{file} import {door}; {door}(lambda: print('x' * 100_000, flush=True))"
    found = subprocess.run(
        [sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, timeout=100
    )
    os.close(writer)
    assert (found.returncode, found.stderr) == (141, b"")
