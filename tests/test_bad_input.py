"""A fault of a user, a disk or a network gives one clear line, a non-zero exit, and no run.

All of it goes through `python train.py` in this process. The last tests start a process of their
own.
"""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import (
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.torch import load_file, save_file

from sft.checkpoint import hub
from tests.forked import Command

ROOT = Path(__file__).parents[1]
RECORDS = [
    {"instruction": f"say {i}", "input": "", "output": f"{i} trees and birds"} for i in range(40)
]
Refused = Callable[..., str]


@pytest.fixture
def arguments(checkpoint: Path, tmp_path: Path) -> list[str]:
    """A run that would be fine: a tiny model, `model/`, and its data, `mine.json`."""
    shutil.copytree(checkpoint, tmp_path / "model")
    (tmp_path / "mine.json").write_text(json.dumps(RECORDS))
    names = [
        "model.checkpoint=model",
        "model.allow_untrained=true",
        "data=json",
        "data.path=mine.json",
    ]
    return [*names, "data.prompt=phi3", "device=cpu", "precision=32"]


@pytest.fixture
def refused(
    command: Callable[..., None], arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> Refused:
    """Call train.py, check that it refuses in one line and leaves nothing, and return the line."""

    def call(*changes: str) -> str:
        with pytest.raises(SystemExit) as end:
            command(*arguments, *changes)
        line = end.value.code

        # Python prints a text on stderr, and exits with 1.
        assert isinstance(line, str)
        assert "\n" not in line
        assert line.startswith("error: ")
        assert_nothing_left(Path())
        return line.removeprefix("error: ")

    return call


def assert_nothing_left(place: Path) -> None:
    """Check that a run's folder holds only Hydra's own, and that the newest run is the old one."""
    assert {path.name for path in place.glob("outputs/*/*/*")} <= {".hydra"}
    assert not os.path.lexists(place / "outputs/latest")


def test_the_unchanged_run_is_not_refused(
    command: Callable[..., None], arguments: list[str]
) -> None:
    Path("mine.json").write_text(json.dumps([RECORDS[0] | {"context": "c"}, *RECORDS[1:]]))
    command(*arguments, "max_steps=1", "eval.every=0", "eval.sample=false")
    assert Path("outputs/latest/summary.json").exists()
    assert (
        Path("outputs/latest/train.log").read_text().count("mine.json: not read: 'context' ") == 1
    )


# The data file

A = json.dumps(RECORDS[0])
DATA = {
    "not JSON": ("instruction,output\n", "not JSON at line 1, column 1 "),
    "truncated": (json.dumps(RECORDS, indent=0)[:-9], "not JSON at line 200, column 11 "),
    "truncated JSON Lines": (f"{A}\n{A[:30]}", "not JSON at line 2, column 26 "),
    "no instruction": (f'[{A}, {{"output": "b"}}]', "record 2: no 'instruction', expected "),
    "no output": (f'[{A}, {{"instruction": "a"}}]', "record 2: no 'output', expected "),
    "a truth value": (
        f'[{A}, {A}, {{"instruction": true, "output": "b"}}]',
        "record 3: 'instruction' is a truth value, expected text",
    ),
    "a capital": (
        f'[{A}, {{"instruction": "a", "Input": "", "output": "b"}}]',
        "record 2: 'Input' is not read; ",
    ),
    "null": (
        f'[{A}, {{"instruction": "a", "output": null}}]',
        "record 2: 'output' is null, expected text",
    ),
    "an empty file": ("", "empty, expected a JSON array of records"),
    "an empty array": ("[]", "an empty array, expected at least one record"),
    "an object": (f'{{"records": {A}}}', "an object instead of an array of records"),
    "an object over lines": (
        json.dumps({"records": RECORDS, "more": RECORDS}, indent=1),
        "an object instead of an array of records",
    ),
}


@pytest.mark.parametrize("name", DATA)
def test_unusable_data_is_refused(refused: Refused, name: str) -> None:
    content, message = DATA[name]
    Path("mine.json").write_text(content)
    assert refused().startswith(f"{Path('mine.json').resolve()}: {message}")


def test_a_missing_data_file_is_refused(refused: Refused) -> None:
    Path("mine.json").unlink()
    assert (
        refused()
        == f"{Path('mine.json').resolve()}: no such file; give data.path= a file of records"
    )


def test_a_folder_that_holds_no_records_is_refused_by_its_file(refused: Refused) -> None:
    file = Path("model").resolve() / "config.json"
    assert refused("data.path=model").startswith(f"{file}: an object instead of an array")


# Settings

SETTINGS = {
    "an empty split": (
        "data.split=[0.98,0.01,0.01]",
        "data.split: [0.98, 0.01, 0.01] of 40 records leaves none for test; ",
    ),
    "a split that does not sum to 1": (
        "data.split=[0.8,0.1,0.2]",
        "data.split: [0.8, 0.1, 0.2] sums to 1.1, expected 1",
    ),
    "max_length above the context": (
        "data.max_length=129",
        "data.max_length: 129 is more than the model's context of 128 tokens",
    ),
    "max_length too small for any answer": (
        "data.max_length=5",
        "data.max_length: 5 tokens leave no answer in the train split; raise it",
    ),
    "a sample of more than there are": ("data.sample=41", "data.sample: 41 of the 40 records in "),
    "batch_size": ("batch_size=0", "batch_size: 0 is out of range, expected at least 1"),
    "epochs": ("epochs=0", "epochs: 0 is out of range, expected at least 1"),
    "optim.lr": ("optim.lr=0", "optim.lr: 0.0 is out of range, expected more than 0"),
    "optim.lr negative": (
        "optim.lr=-1e-4",
        "optim.lr: -0.0001 is out of range, expected more than 0",
    ),
    "model.dropout": (
        "model.dropout=1",
        "model.dropout: 1.0 is out of range, expected less than 1",
    ),
    "max_steps": (
        "max_steps=0",
        "max_steps: 0 would train nothing; expected a number from 1 up, or -1",
    ),
    "template": (
        "data.prompt=chat",
        "data.prompt: unknown value 'chat'; expected one of alpaca, ",
    ),
    "model": (
        "model=gpt3",
        "model: unknown value 'gpt3'; expected one of gpt2-large, ",
    ),
    "data": (
        "data=web",
        "data: unknown value 'web'; expected one of alpaca, ",
    ),
    "device": ("device=gpu", "device: unknown value 'gpu'; expected one of auto, cpu, cuda, mps"),
    "precision": (
        "precision=fp8",
        "precision: unknown value 'fp8'; expected one of auto, 32, bf16-mixed, 16-mixed",
    ),
    "precision of a GPU": (
        "precision=16-mixed",
        "precision: 16-mixed needs a GPU; on the CPU use bf16-mixed or 32",
    ),
    "key": ("batchsize=8", "batchsize: unknown key; "),
    "key in a group": ("optim.lrr=1", "optim.lrr: unknown key; "),
    "key with +": ("+optim.lrr=1", "optim.lrr: unknown key; known here: lr, weight_decay, "),
    "type": ("batch_size=eight", "batch_size: found 'eight', expected a whole number"),
    "type of a list": ("data.split=0.5", "data.split: found 0.5, expected a list, as in [a,b]"),
    "type of a switch": ("compile=2", "compile: found 2, expected true or false"),
    "json without a path": (
        "data.path=null",
        "data.path: missing; data=file (or data=json) needs data.path=FILE",
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_an_unusable_setting_is_refused(refused: Refused, name: str) -> None:
    argument, message = SETTINGS[name]
    assert refused(argument).startswith(message)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_missing_device_is_refused(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    message = refused(f"device={device}")
    assert message.startswith(f"device: {device} ")
    assert torch.__version__ in message
    assert "only cpu" in message


# The checkpoint


def without(*names: str) -> Callable[[Path], Any]:
    return lambda model: [(model / name).unlink() for name in names]


def written(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda model: (model / name).write_bytes(content)


def cut_short(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def rewrite(model: Path) -> None:
        state = load_file(model / "model.safetensors")
        change(state)
        save_file(state, model / "model.safetensors", metadata={"format": "pt"})

    return rewrite


def config(**values: Any) -> Callable[[Path], Any]:
    def rewrite(model: Path) -> None:
        found = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(found | values))

    return rewrite


def other_merges(model: Path) -> None:
    lines = (model / "merges.txt").read_text(encoding="utf-8").splitlines()
    (model / "merges.txt").write_text(
        "\n".join([lines[0], "z q", *lines[1:]]) + "\n", encoding="utf-8"
    )


BIAS, POSITIONS = "transformer.h.1.mlp.c_fc.bias", "transformer.wpe.weight"
CHECKPOINTS = {
    "no config.json": (
        without("config.json"),
        "{model}: no config.json; expected a checkpoint in Hugging Face format",
    ),
    "no weights": (
        without("model.safetensors"),
        "{model}: no model.safetensors; expected a checkpoint",
    ),
    "no vocab.json": (
        without("vocab.json"),
        "{model}: no vocab.json; expected a checkpoint in Hugging Face format",
    ),
    "no merges.txt": (
        without("merges.txt"),
        "{model}: no merges.txt; expected a checkpoint in Hugging Face format",
    ),
    "truncated weights": (cut_short, "{model}/model.safetensors: not a whole safetensors file ("),
    "a web page": (
        written("model.safetensors", b"<!DOCTYPE html><html></html>"),
        "{model}/model.safetensors: a web page, not a safetensors file (",
    ),
    "a missing tensor": (
        tensors(lambda state: state.pop(BIAS)),
        "{model}: no tensor 'h.1.mlp.c_fc.bias' of shape (64,)",
    ),
    "an extra tensor": (
        tensors(lambda state: state.update({"transformer.h.2.ln_1.bias": torch.ones(16)})),
        "{model}/model.safetensors: tensor 'h.2.ln_1.bias' is not part of this model",
    ),
    "a misshaped tensor": (
        tensors(lambda state: state.update({POSITIONS: torch.ones(64, 16)})),
        "{model}/model.safetensors: tensor 'transformer.wpe.weight': expected shape (128, 16), "
        "found (64, 16)",
    ),
    "n_head": (
        config(n_head=3),
        "{model}/config.json: n_embd: 16 cannot be divided among n_head = 3 heads",
    ),
    "another architecture": (
        config(model_type="llama"),
        "{model}/config.json: model_type: 'llama' is not implemented, expected 'gpt2'",
    ),
    "another activation": (
        config(activation_function="relu"),
        "{model}/config.json: activation_function: 'relu' is not implemented, expected 'gelu_new'",
    ),
    "other merges": (other_merges, "{model}/merges.txt, line 2: 'zq' is not in vocab.json"),
    "fewer merges": (
        written("merges.txt", b"#version: 0.2\n"),
        "{model}/merges.txt: no line makes the token ",
    ),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_an_unusable_checkpoint_is_refused(refused: Refused, name: str) -> None:
    change, message = CHECKPOINTS[name]
    change(Path("model"))
    assert refused().startswith(message.format(model=Path("model").resolve()))


def test_untrained_weights_are_refused(
    refused: Refused, command: Callable[..., None], arguments: list[str]
) -> None:
    with pytest.raises(
        SystemExit,
        match=r"error: model.checkpoint: the untouched model's loss .*allow_untrained=true",
    ):
        command(*arguments, "model.allow_untrained=false")
    [folder] = Path("outputs").glob("*/*-gpt2-nano")
    assert not {"model", "checkpoints", "summary.json"} & {path.name for path in folder.iterdir()}


# The hub


class Response:
    """The parts of a response that the errors of the hub client read."""

    headers: dict[str, str] = {}  # noqa: RUF012
    request = None


HUB = {
    "unreachable": (
        LocalEntryNotFoundError("offline"),
        "someone/tiny: cannot reach https://huggingface.co (LocalEntryNotFoundError: offline); ",
    ),
    "no repository": (
        RepositoryNotFoundError("404", response=Response()),  # type: ignore[arg-type]
        "someone/tiny: no such repository at https://huggingface.co, or a private one ",
    ),
    "no revision": (
        RevisionNotFoundError("404", response=Response()),  # type: ignore[arg-type]
        "someone/tiny: no revision 'v9'; expected a branch, a tag or a commit",
    ),
    "disk full": (
        OSError(errno.ENOSPC, "No space left on device"),
        "someone/tiny: no space left for config.json in ",
    ),
}


@pytest.mark.parametrize("name", HUB)
def test_a_failure_of_the_hub_is_one_line(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    error, message = HUB[name]

    def download(*arguments: Any, **options: Any) -> str:
        raise error

    monkeypatch.setattr(hub, "hf_hub_download", download)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.constants, "ENDPOINT", "https://huggingface.co")
    assert refused("model.checkpoint=someone/tiny", "model.revision=v9").startswith(message)


def test_a_wrong_checksum_is_refused(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    repo, commit = "openai-community/gpt2", hub.PINNED["openai-community/gpt2"]
    shutil.move("model", commit)
    monkeypatch.setattr(
        hub, "hf_hub_download", lambda repo, name, revision: str(Path(commit, name))
    )
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *arguments, **options: None)
    expected = hub.SHA256[repo, "vocab.json"]
    assert refused(f"model.checkpoint={repo}").startswith(
        f"vocab.json: arrived damaged and was deleted: expected hash {expected}, found "
    )
    assert not Path(commit, "vocab.json").exists()


def test_a_failed_download_is_one_line(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")
    line = refused("data=alpaca", "data.path=null", "data.url=http://127.0.0.1:9/x")
    assert line.startswith(
        "http://127.0.0.1:9/x: the download failed (cannot reach 127.0.0.1:9: refused)"
    )
    assert line.endswith("; try again, or use a file you have: data=file data.path=FILE")


# The disk


def full(*arguments: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("place", "message", "left"),
    [
        (
            "sft.training.metrics_file.MetricsFile.append",
            r"\[Errno 28\] No space left on device",
            set(),
        ),
        ("torch.save", r"\S*last.ckpt: cannot be written \(No space left", set()),
        (
            "sft.checkpoint.weights.write",
            r"\S*/model: cannot be written \(No space left",
            {"last.ckpt"},
        ),
        (
            "sft.training.summary.plot_losses",
            r"\[Errno 28\] No space left on device",
            {"last.ckpt", "model.safetensors"},
        ),
    ],
)
def test_a_full_disk_is_one_line(
    command: Callable[..., None],
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    message: str,
    left: set[str],
) -> None:
    monkeypatch.setattr(place, full)
    with pytest.raises(SystemExit) as end:
        command(
            *arguments, "data.split=[0.9,0.1,0]", "epochs=1", "eval.every=0", "eval.sample=false"
        )
    assert re.match(f"error: {message}", str(end.value.code))
    assert "\n" not in str(end.value.code)
    [folder] = Path("outputs").glob("*/*-gpt2-nano")
    names = {path.name for path in folder.rglob("*")}
    assert names & {"last.ckpt", "last.part", "model.safetensors", "summary.json"} == left


# resume=


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda folder: None,
            "resume: {folder}/checkpoints/last.ckpt is not there; ",
        ),
        (lambda folder: folder.mkdir(), "resume: {folder}/checkpoints/last.ckpt is not there; "),
        (
            lambda folder: folder.write_text("x"),
            "resume: {folder}/checkpoints/last.ckpt is not there; ",
        ),
        (
            lambda folder: (folder / "checkpoints").mkdir(parents=True),
            "resume: {folder}/checkpoints/last.ckpt is not",
        ),
    ],
)
def test_resume_without_a_run_is_refused(
    refused: Refused, make: Callable[[Path], Any], message: str
) -> None:
    make(Path("run"))
    before = sorted(Path("run").rglob("*"))
    line = refused("resume=run")
    assert re.match(re.escape(message).replace(re.escape("{folder}"), r"\S*run"), line)
    assert sorted(Path("run").rglob("*")) == before


def test_resume_from_a_damaged_checkpoint_is_refused(refused: Refused) -> None:
    Path("run/checkpoints").mkdir(parents=True)
    Path("run/checkpoints/last.ckpt").write_bytes(b"PK\x03\x04 no zip")
    assert re.match(
        r"\S*run/checkpoints/last.ckpt: not a checkpoint of a run, or damaged \(",
        refused("resume=run"),
    )


# In a process of its own


def train(*arguments: str, place: Path, **environment: str) -> subprocess.Popen[str]:
    own = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=place, env=own | environment, text=True, **pipes)  # type: ignore[call-overload,no-any-return]


def test_the_command_itself_refuses_in_one_line(arguments: list[str], tmp_path: Path) -> None:
    cases = {
        ("batch_size=0",): "batch_size: 0 is out of range, expected at least 1",
        ("+optim.lrr=1",): "optim.lrr: unknown key; known here: ",
        ("model=gpt3",): "model: unknown value 'gpt3'",
        (
            *arguments,
            "data.max_length=129",
        ): "data.max_length: 129 is more than the model's context of 128 tokens",
    }
    for changes, message in cases.items():
        done = Command(str(ROOT / "train.py"), *changes, folder=tmp_path).finish()
        errors = done.stderr.decode()
        assert done.returncode == 1
        assert errors.startswith(f"error: {message}")
        assert (errors.count("\n"), errors[-1], done.stdout) == (1, "\n", b"")
    assert_nothing_left(tmp_path)


def test_two_processes_report_an_error_once(arguments: list[str], tmp_path: Path) -> None:
    process = train(
        *arguments, "devices=2", "strategy=ddp", "data.path=nowhere.json", place=tmp_path
    )
    output, errors = process.communicate(timeout=300)
    assert (process.returncode, output) == (1, "")
    assert errors.startswith(f"error: {tmp_path / 'nowhere.json'}: no such file; ")
    assert (errors.count("\n"), errors[-1]) == (1, "\n")
    assert_nothing_left(tmp_path)


def test_hydra_full_error_gives_a_traceback(tmp_path: Path) -> None:
    process = train("batch_size=0", place=tmp_path, HYDRA_FULL_ERROR="1")
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 1
    assert "Traceback (most recent call last)" in errors
    assert "InputError: batch_size: 0" in errors
