"""The command line: every combination composes, and a mistake is one line."""

import ast
import csv
import errno
import itertools
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from sft import cli, folders
from sft.config.loading import from_hydra
from sft.config.schema import EvaluateConfig, TrainConfig
from sft.errors import InputError
from sft.summaries import write_run_summary
from tests.summaries import run_summary

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
MODELS = ("gpt2-nano", "gpt2-small", "gpt2-medium", "gpt2-large", "gpt2-xl")
DATA = ("nano", "instructions", "alpaca", "json")
EXPERIMENTS = ("book", "alpaca-1k", "alpaca-52k", "masked", "phi3", "lora", "nano-base")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def composed(*overrides: str) -> TrainConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return from_hydra(TrainConfig, compose("train", list(overrides)))


def chosen(config: TrainConfig) -> tuple[str, str]:
    return config.model.checkpoint, config.data.source


CHECKPOINTS = {name: f"openai-community/{name}" for name in MODELS} | {
    "gpt2-nano": "gpt2-nano",
    "gpt2-small": "openai-community/gpt2",
}


# Choices


def test_these_are_all_the_choices() -> None:
    for group, names in (
        ("model", MODELS),
        ("data", DATA),
        ("experiment", EXPERIMENTS),
        ("sweep", ("grid", "optuna")),
    ):
        assert {path.stem for path in (CONF / group).glob("*.yaml")} == set(names)


@pytest.mark.parametrize("experiment", [None, *EXPERIMENTS])
def test_every_combination_composes_and_the_command_line_wins(experiment: str | None) -> None:
    recipe = [f"experiment={experiment}"] if experiment else []
    for model, data in itertools.product(MODELS, DATA):
        path = ["data.path=/mine.json"] if data == "json" else ["data.path=null"]
        config = composed(*recipe, f"model={model}", f"data={data}", *path)
        checkpoint = "build/nano/untrained" if experiment == "nano-base" else CHECKPOINTS[model]
        assert chosen(config) == (checkpoint, data)


MEDIUM = "openai-community/gpt2-medium"


@pytest.mark.parametrize(
    ("name", "expected", "changes"),
    [
        ("book", (MEDIUM, "instructions"), {}),
        (
            "alpaca-1k",
            ("openai-community/gpt2", "alpaca"),
            {"sample": 1000, "split": [0.8, 0.1, 0.1]},
        ),
        ("alpaca-52k", (MEDIUM, "alpaca"), {}),
        ("masked", (MEDIUM, "instructions"), {"mask_prompt": True}),
        ("phi3", (MEDIUM, "instructions"), {"prompt": "phi3"}),
    ],
)
def test_the_published_recipes(
    name: str, expected: tuple[str, str], changes: dict[str, Any]
) -> None:
    config = composed(f"experiment={name}")
    assert chosen(config) == expected
    plain = composed("model=gpt2-medium", f"data={config.data.source}")
    assert vars(config.data) == vars(plain.data) | changes
    assert (config.optim, config.eval, config.batch_size, config.epochs) == (
        plain.optim,
        plain.eval,
        8,
        2,
    )


@pytest.mark.parametrize("data", DATA)
def test_evaluate_takes_the_same_data(data: str) -> None:
    path = ["data.path=/mine.json"] if data == "json" else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = from_hydra(
            EvaluateConfig, compose("evaluate", [f"data={data}", "checkpoint=x", "out=y", *path])
        )
    assert (config.data.source, config.data.path) == (data, "/mine.json" if path else None)


# The run's folder


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
    (
        tmp_path / "run" / "checkpoints" / ".last.ckpt.part"
    ).touch()  # killed while it wrote its first
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


# One line


def line(command: Callable[..., None], *arguments: str) -> str:
    """What the command says when it ends by a mistake."""
    with pytest.raises(SystemExit) as end:
        command(*arguments)
    assert isinstance(end.value.code, str)  # printed on stderr; the exit code is then 1
    assert "\n" not in end.value.code
    assert end.value.code.startswith("error: ")
    return end.value.code.removeprefix("error: ")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("optim.lrr=1", "optim.lrr: unknown key; --help lists those there are"),
        ("bach_size=8", "bach_size: unknown key; --help lists those there are"),
        ("+optim.lrr=1", "optim.lrr: unknown key; known here: lr, "),
        (
            "model=gpt3",
            "In 'train': Could not find 'model/gpt3' Available options in 'model': gpt2-large gpt2-medium",
        ),
        ("data=web", "In 'train': Could not find 'data/web' Available options in 'data': alpaca"),
        (
            "experiment=x",
            "In 'train': Could not find 'experiment/x' Available options in 'experiment': alpaca-1k",
        ),
        ("data=null", "Config group override must be a string or a list. Got NoneType"),
        ("batch_size", "batch_size: cannot be read as key=value ("),
        ("data.split=[0.5,0.5", "data.split=[0.5,0.5: cannot be read as key=value ("),
        ("model=gpt2-nano,gpt2-small", "Ambiguous value for argument 'model=gpt2-nano,gpt2-small'"),
        ("resume=${nope}", "Interpolation key 'nope' not found"),
        ("data.path=${nope}", "data.path: Interpolation key 'nope' not found"),
        ("hydra/launcher=x", "In 'hydra/config': Could not find 'hydra/launcher/x'"),
        ("hydra.run.dir=/proc/no/such", "[Errno 2] No such file or directory: '/proc/no'"),
        ("batch_size=0", "batch_size: 0 is out of range, expected at least 1"),
    ],
)
def test_a_mistake_is_one_line(command: Callable[..., None], argument: str, message: str) -> None:
    assert line(command, argument).startswith(message)
    assert {path.name for path in Path("outputs").glob("*/*/*")} <= {".hydra"}
    assert not os.path.lexists("outputs/latest")


def test_the_folders_of_refused_runs(command: Callable[..., None]) -> None:
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
    """Makes the run itself end in this error."""
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
            "the sweep ends here; the same command with resume=auto hydra.sweep.dir=x goes on with it\n",
        ),
    ],
)
def test_ctrl_c_promises_what_holds(
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
    assert capsys.readouterr().err == f"{advice}\ninterrupted; what was written stays\n"


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
def test_full_errors_on_request(
    command: Callable[..., None], monkeypatch: pytest.MonkeyPatch, argument: str
) -> None:
    monkeypatch.setattr(cli, "FULL_ERROR", True)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(
        Exception, match=r"batch_size: 0 is out of range|Could not override 'optim.lrr'"
    ):
        command(argument)


@pytest.mark.parametrize(
    ("error", "traceback"),
    [(InputError("bad data"), False), (OSError(28, "full"), False), (RuntimeError("a bug"), True)],
)
def test_in_a_sweep_the_other_jobs_run(
    command: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    traceback: bool,
) -> None:
    import train

    done = []

    def fit(config: TrainConfig, folder: Path, changed: str) -> None:
        if config.seed == 2:
            raise error
        write_run_summary(folder, run_summary(config={"evaluate": False}))
        done.append(config.seed)

    monkeypatch.setattr(train, "fit", fit)
    assert line(command, "-m", "seed=1,2,-3,4") == "2 of 4 jobs failed; their messages are above"
    assert done == [1, 4]
    said = capsys.readouterr().err
    assert [text for text in said.splitlines() if text.startswith("error: ")] == [
        f"error: job 1: {error}",
        "error: job 2: seed: -3 is out of range, expected at least 0",
    ]
    assert ("Traceback" in said) is traceback


def test_a_sweep_ranks_its_evaluated_jobs(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., None]
) -> None:
    """Also where the jobs' folders have names of the user's, and something else lies beside them."""
    (tmp_path / "sweep" / "7").mkdir(parents=True)
    tiny = (
        f"model.checkpoint={checkpoint}",
        "model.allow_untrained=true",
        "max_steps=1",
        "eval.sample=false",
    )
    folders = ("hydra.sweep.dir=sweep", "hydra.sweep.subdir=lr-${optim.lr}")
    small = ("data.sample=40", "eval.every=0", "device=cpu", "precision=32", "batch_size=32")
    rank = ("evaluate=true", "eval.rank=loss")
    # a learning rate at which the loss is no number
    message = line(
        command, "-m", "optim.lr=1e-9,1e-2,1e30", *tiny, *folders, *small, *rank, "max_steps=2"
    )
    assert message == "1 of 3 jobs failed; their messages are above"
    rows = list(csv.DictReader((tmp_path / "sweep" / "results.csv").open()))
    assert [row["job"] for row in rows] == ["lr-0.01", "lr-1e-09", "lr-1e+30"]
    assert [row["status"] for row in rows] == ["finished", "finished", "failed"]
    assert float(rows[0]["low"]) < float(rows[0]["loss"]) < float(rows[0]["high"])
    assert float(rows[0]["loss"]) < float(rows[1]["loss"])
    assert rows[2]["loss"] == ""
    evaluation = json.loads(
        (tmp_path / "sweep" / "lr-0.01" / "evaluation" / "summary.json").read_text()
    )
    assert (evaluation["split"], evaluation["tuned"]["loss"]) == (
        "validation",
        float(rows[0]["loss"]),
    )


# The log


def test_the_log_is_for_rank_0_and_begins_with_its_first_line(
    command: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = logging.getLogger("sft.somewhere")
    monkeypatch.setenv("RANK", "1")
    cli.log_to(tmp_path / "train.log")
    log.info("of rank 1")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.delenv("RANK")
    cli.log_to(tmp_path / "train.log")
    cli.log_to(tmp_path / "train.log")
    assert list(tmp_path.iterdir()) == []
    log.info("é")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \S+ é\n", (tmp_path / "train.log").read_text(encoding="utf-8")
    )
    assert capsys.readouterr().out == "é\n"


def test_a_log_that_cannot_be_written_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "train.log").symlink_to("/dev/full")
    cli.log_to(tmp_path / "train.log")
    with pytest.raises(
        InputError, match=r"train\.log: cannot be written \(No space left on device\)"
    ):
        logging.getLogger("sft").info("lost")
    logging.getLogger("sft").handlers.clear()


# Streams


def test_output_that_is_not_utf8_ends_no_run(tmp_path: Path) -> None:
    record = {"instruction": "clear\x1b[2J", "output": "\u65e5 \u20ac \x9b2J\u202e\tend"}
    (tmp_path / "data.json").write_text(json.dumps([record] * 20))
    small = (
        "max_steps=1",
        "batch_size=2",
        "eval.every=0",
        "model.allow_untrained=true",
        "evaluate=true",
    )
    told = ("data=json", "data.path=data.json", "hydra.run.dir=run", "device=cpu")
    command = [sys.executable, str(ROOT / "train.py"), *small, *told]
    env = os.environ | {"PYTHONIOENCODING": "cp1252:strict", "HYDRA_FULL_ERROR": "0"}
    found = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, timeout=300, encoding="cp1252"
    )
    assert found.returncode == 0, found.stderr
    assert "Traceback" not in found.stderr
    # The terminal gets escapes, and one ? for each letter that it cannot show; the files keep what was said.
    assert "clear\\x1b[2J" in found.stdout
    assert "?? \u20ac \\x9b2J\\u202e\tend" in found.stdout
    assert "\x1b[2J" not in found.stdout
    log = (tmp_path / "run" / "train.log").read_text(encoding="utf-8")
    assert "\u27e6\u65e5 \u20ac \x9b2J\u202e\tend" in log


def say_what_ascii_lacks() -> None:
    print("\u27e6", flush=True)


def test_the_processes_of_several_devices_replace_too(tmp_path: Path) -> None:
    program = "import test_cli; from sft.cli import on_devices; on_devices(2, test_cli.say_what_ascii_lacks)"
    paths = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    found = python("-c", program, cwd=tmp_path, PYTHONIOENCODING="ascii", PYTHONPATH=paths)
    assert (found.returncode, found.stdout) == (0, "?\n?\n"), found.stderr


@pytest.mark.parametrize("door", ["command", "run"])
def test_a_command_ends_in_silence_when_nobody_reads_its_output(door: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    code = f"from sft.cli import {door}; {door}(lambda: print('x' * 100_000, flush=True))"
    found = subprocess.run(
        [sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, timeout=100
    )
    os.close(writer)
    assert (found.returncode, found.stderr) == (141, b"")


def test_streams_that_are_closed_become_empty_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    cli.prepare_streams()
    with sys.stdin, sys.stdout, sys.stderr:
        assert sys.stdin.read() == ""
        print("lost", file=sys.stderr)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "tab\tand\nline, \u00e9 \U0001f600 \u200d\u00ad",
            "tab\tand\nline, \u00e9 \U0001f600 \u200d\u00ad",
        ),
        ("\x1b]0;x\x07", "\\x1b]0;x\\x07"),
        ("a\r\x08\x0b\x0c\x00\x7f", "a\\r\\x08\\x0b\\x0c\\x00\\x7f"),
        ("\x9b\u202e\u2066", "\\x9b\\u202e\\u2066"),
    ],
)
def test_control_characters_are_shown_and_not_obeyed(text: str, shown: str) -> None:
    assert cli.visible(text) == shown


def test_an_error_that_quotes_escape_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise InputError("record 1: \x1b[2J")

    monkeypatch.setattr(cli, "FULL_ERROR", False)
    with pytest.raises(SystemExit, match=r"^error: record 1: \\x1b\[2J$"):
        cli.command(refuse)


def opened_without_encoding(path: Path) -> list[str]:
    """Calls in a file that open a text file in the encoding of the machine."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = (
            node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        )
        owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        known = name in ("read_text", "write_text", "FileHandler", "_FileHandler") or (
            name == "open" and owner != "os"
        )
        constants = [
            part.value
            for value in node.args
            for part in ast.walk(value)
            if isinstance(part, ast.Constant)
        ]
        binary = {"rb", "wb", "ab", "rb+"} & set(constants)
        ours = isinstance(node.func, ast.Name) and name in (
            "read_text",
            "write_text",
        )  # functions of sft's own
        if not known or ours or binary:
            continue
        if "encoding" not in {keyword.arg for keyword in node.keywords}:
            found.append(f"{path.name}:{node.lineno}: {ast.unparse(node)}")
    return found


def test_files_are_always_utf8(tmp_path: Path) -> None:
    sources = [*ROOT.glob("*.py"), *(ROOT / "sft").rglob("*.py")]
    assert [line for path in sources for line in opened_without_encoding(path)] == []
    (tmp_path / "x.py").write_text(
        "p.open('a')\nopen(p)\np.read_text()\np.open('rb')\nos.open(p, 0)\n"
    )
    assert len(opened_without_encoding(tmp_path / "x.py")) == 3


# Processes


def test_one_device_is_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    cli.on_devices(1, lambda *numbers: calls.append(numbers), 1, 2)
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
            "process 1 of 2 ended with exit code 7 and said nothing; resume= goes on from the last",
        ),
        (
            "killed",
            InputError,
            r"process 1 of 2 was killed \(SIGKILL\), perhaps for want of memory; resume= goes on",
        ),
    ],
)
def test_what_ends_one_process_ends_all(how: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        cli.on_devices(2, fail_on_rank_1, how)


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
            "error: devices: 1, but torchrun started 2 processes here; give devices=2",
        ),
        (("devices=2",), "error: hydra.run.dir: missing; torchrun's processes must be told"),
    ],
)
def test_what_torchrun_would_make_two_runs_is_refused(
    tmp_path: Path, checkpoint: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = torchrun(tmp_path, checkpoint, *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert not [
        path for path in tmp_path.rglob("*") if path.is_file() and ".hydra" not in path.parts
    ]


def python(
    *arguments: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    own = {
        key: value
        for key, value in os.environ.items()
        if key not in ("HYDRA_FULL_ERROR", "SFT_ONE_LINE")
    }
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        env=own | environment,
    )


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


# resume=


def test_auto_begins_and_goes_on_and_latest_is_the_newest(
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
    assert line(command, *tiny, "resume=auto") == (
        "resume: auto looks into the run's folder; give one, hydra.run.dir=FOLDER"
    )
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
def test_a_run_is_not_lost_to_another_in_its_folder(
    command: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    file: str,
    arguments: list[str],
    key: str,
) -> None:
    """Nor what it was asked for, which Hydra writes before it calls us."""
    texts = {Path("sweep/0", file): "{}", Path("sweep/0/.hydra/overrides.yaml"): "- seed=5\n"}
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with pytest.raises(SystemExit) as end:
        command(*arguments, "seed=6")
    told = f"{end.value.code}{capsys.readouterr().err}"
    assert (
        f"{key}: {Path('sweep/0').absolute()} holds a run; go on with it by resume=auto, or give a new"
        in told
    )
    if file == "summary.json":
        told = line(command, "hydra.run.dir=sweep/0", "resume=auto")
        assert told.endswith("sweep/0 holds a run without its checkpoints; give a new folder")
    assert {
        path: path.read_text() for path in Path("sweep/0").rglob("*") if path.is_file()
    } == texts


def test_one_run_is_no_sweep(
    command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command("resume=latest", "seed=1,2", "-m")
    assert (
        "resume: latest is one run, but -m makes several; go on with a sweep by resume=auto"
        in capsys.readouterr().err
    )


def test_a_sweep_started_again_does_what_is_left(
    command: Callable[..., None], checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.json").write_text(
        json.dumps([{"instruction": f"Say {i}.", "output": "ok"} for i in range(40)])
    )
    sweep = [
        f"model.checkpoint={checkpoint}",
        "model.allow_untrained=true",
        "eval.every=0",
        "eval.sample=false",
    ]
    sweep += [
        "data=json",
        "data.path=mine.json",
        "device=cpu",
        "precision=32",
        "logger=none",
        "max_steps=2",
    ]
    sweep += ["optim.lr=1e-4,1e-3", "resume=auto", "hydra.sweep.dir=sweep", "-m"]
    command(*sweep)
    done = [(tmp_path / "sweep" / job / "summary.json").stat().st_mtime_ns for job in "01"]
    (
        tmp_path / "sweep" / "1" / "summary.json"
    ).unlink()  # as if the second had been killed at its end
    command(*sweep)
    assert (tmp_path / "sweep" / "0" / "summary.json").stat().st_mtime_ns == done[0]
    assert (tmp_path / "sweep" / "1" / "summary.json").stat().st_mtime_ns > done[1]
    rows = list(csv.DictReader((tmp_path / "sweep" / "results.csv").open()))
    assert sorted((row["settings"], row["status"]) for row in rows) == [
        ("optim.lr=0.0001", "finished"),
        ("optim.lr=0.001", "finished"),
    ]


def rows_of(sweep: str) -> dict[str, dict[str, str]]:
    with Path(sweep, "results.csv").open() as file:
        return {row["job"]: row for row in csv.DictReader(file)}


def test_a_job_that_was_refused_is_not_listed_as_finished(
    command: Callable[..., None], checkpoint: Path
) -> None:
    """In the folder of another sweep, whose runs have numbers of their own."""
    records = [{"instruction": f"Say {i}.", "output": "ok"} for i in range(40)]
    Path("mine.json").write_text(json.dumps(records))
    tiny = [
        f"model.checkpoint={checkpoint}",
        "model.allow_untrained=true",
        "eval.every=0",
        "eval.sample=false",
    ]
    tiny += [
        "data=json",
        "data.path=mine.json",
        "device=cpu",
        "precision=32",
        "logger=none",
        "hydra.sweep.dir=sweep",
    ]
    command(*tiny, "optim.lr=1e-4,1e-3", "max_steps=2", "-m")
    assert [row["status"] for row in rows_of("sweep").values()] == ["finished", "finished"]
    before = {
        path: path.read_bytes()
        for job in "01"
        for path in Path("sweep", job).rglob("*")
        if path.is_file()
    }
    before = {path: content for path, content in before.items() if path.name != "train.log"}

    refused = [
        (["max_steps=2", "optim.lr=1e-4,1e-3"], "holds a run; go on with it by resume=auto"),
        (["max_steps=2", "optim.lr=1e-5,1e-6", "resume=auto"], "optim.lr: 1e-0"),
        (["max_steps=2", "optim.lr=1e-4,1e-3", "batch_size=4", "resume=auto"], "batch_size: 4"),
        (["max_steps=1", "optim.lr=1e-4,1e-3", "resume=auto"], "max_steps: 1"),
    ]
    for arguments, reason in refused:
        assert (
            line(command, *tiny, *arguments, "-m") == "2 of 2 jobs failed; their messages are above"
        )
        for job, row in rows_of("sweep").items():
            assert (job, row["status"], row["validation_loss"]) == (job, "failed", "")
            assert reason in row["reason"]
    assert {path: path.read_bytes() for path in before} == before

    # What an earlier sweep was given, and this one is not, is part of the difference too.
    assert "failed" in line(
        command, *tiny, "max_steps=2", "optim.lr=1e-4,1e-3", "seed=1", "resume=auto", "-m"
    )
    command(*tiny, "max_steps=3", "optim.lr=1e-4", "resume=auto", "-m")
    assert {job: (row["status"], row["reason"]) for job, row in rows_of("sweep").items()} == {
        "0": ("finished", "")
    }
    assert not Path("sweep/.jobs").exists()


def test_a_job_that_died_is_listed_with_what_is_known(tmp_path: Path) -> None:
    from sft.sweep import NOTES, _rows

    (tmp_path / NOTES).mkdir()
    for number, (status, trained) in enumerate([("begun", False), ("trained", True)]):
        job = tmp_path / str(number)
        job.mkdir()
        (job / "summary.json").write_text(json.dumps({"best_validation_loss": 1.5}))
        note = {
            "folder": str(job),
            "overrides": [f"seed={number}"],
            "trained": trained,
            "status": status,
            "reason": "",
        }
        (tmp_path / NOTES / f"{number}.json").write_text(json.dumps(note))
    rows = {row["job"]: row for row in _rows(tmp_path, "validation_loss")}
    assert [rows[job]["status"] for job in "01"] == ["failed", "failed"]
    assert [rows[job]["validation_loss"] for job in "01"] == [None, 1.5]
    assert all("killed" in row["reason"] for row in rows.values())


def test_a_sweep_that_goes_on_needs_a_folder(command: Callable[..., None]) -> None:
    assert line(command, "seed=1,2", "resume=auto", "-m").startswith(
        "resume: auto looks into the sweep's folder"
    )
    assert not Path("outputs").exists()


# The order of arguments


@pytest.mark.parametrize(
    "arguments",
    [
        ["seed=1", "-m", "optim.lr=1,2"],
        ["-m", "seed=1", "optim.lr=1,2"],
        ["seed=1", "optim.lr=1,2", "--multirun"],
    ],
)
def test_options_may_stand_anywhere(
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
def test_a_mistaken_option_is_one_line(
    command: Callable[..., None], arguments: list[str], named: str
) -> None:
    assert named in line(command, *arguments)


# outputs/latest


def test_a_latest_that_is_no_link_is_told(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By what loads a model (chat, server, export, evaluation), and by what resumes."""
    import shutil

    from sft.atomic import warn_of_latest
    from sft.checkpoint.folder import load_pretrained
    from sft.claims import _said_of

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
        _said_of.clear()
        caplog.clear()
        load_pretrained(name, device="meta")
        assert caplog.text.count("outputs/latest is a folder and no link") == 1
    caplog.clear()
    load_pretrained("elsewhere", device="meta")
    assert caplog.text == ""
