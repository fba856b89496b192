"""Every command in the README is run, on a tiny model and tiny data in place of the downloads."""

import csv
import json
import os
import re
import subprocess
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

import evaluate
import train
from sft.config.loading import from_hydra
from sft.config.rules import check_given
from sft.config.schema import EvaluateConfig, TrainConfig
from sft.data import sources
from sft.folders import to_resume, which_run
from sft.launch import on_devices
from sft.training.resume import resumed_config
from tests.forked import Command
from tests.judge.judge_server import Site, serving

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("#")[0].split("|")[-1].split()
    for block in re.findall(r"```bash\n(.*?)```", README, re.S)
    for line in block.splitlines()
]


# What evaluation answers and searches, unless the command says it. Its own tests take all.
FEW = ["generate.max_new_tokens=3", "limit=8", "train_records=4"]


def config(name: str, kind: type, overrides: list[str]):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        found = from_hydra(kind, compose(name, overrides))
    GlobalHydra.instance().clear()
    return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter a folder with the user's file, and a cache with stand-ins for the downloads."""
    records = [
        {"instruction": f"Say {i}.", "input": "now" if i % 3 else "", "output": f"{i}!"}
        for i in range(1100)
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SFT_CACHE", str(tmp_path / "cache"))
    Path("mine.json").write_text(json.dumps(records[:60]))
    with Path("mine.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["instruction", "input", "output"], extrasaction="ignore")
        table.writeheader()
        table.writerows(records[:60])

    def stand_in(*_: object) -> Path:
        path = tmp_path / "download.json"
        path.write_text(json.dumps(records))
        return path

    monkeypatch.setattr(sources, "download", stand_in)
    return tmp_path


def test_the_commands_are_all_of_these_kinds() -> None:
    kinds = {" ".join(command[:2]) for command in COMMANDS}
    assert kinds == {
        "make train",
        "make evaluate",
        "python train.py",
        "python evaluate.py",
        "python -m",
    }


def test_the_smaller_doors_take_these_arguments() -> None:
    """Their own tests say what they do with them."""
    seen = set()
    for _, _, module, *arguments in (
        command for command in COMMANDS if command[:2] == ["python", "-m"]
    ):
        import_module(module).parser().parse_args(arguments)
        seen.add(module)
    assert seen == {"sft.chat", "sft.serve", "sft.export", "sft.convert"}


def test_make_targets_exist_and_call_the_doors() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make (\w+)`", README) + [
        command[1] for command in COMMANDS if command[0] == "make"
    ]:
        assert re.search(rf"^{target}:.*##", makefile, re.M), target
    plain = {
        key: value
        for key, value in os.environ.items()
        if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    listed = subprocess.run(
        ["make", "help"], cwd=ROOT, env=plain, capture_output=True, text=True, check=True
    ).stdout
    assert [line.split()[0] for line in listed.splitlines()] == re.findall(
        r"^([a-z0-9-]+):.*##", makefile, re.M
    )
    assert "$(BIN)/python train.py" in makefile
    assert "$(BIN)/python evaluate.py" in makefile


def test_a_python_command_of_the_readme_works(
    place: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HydraConfig, "get", lambda: SimpleNamespace(mode=RunMode.RUN))
    # The tiny checkpoint has a template for single turns, and nano's records have conversations.
    tiny = [
        f"model.checkpoint={checkpoint}",
        "data.prompt=alpaca",
        "model.allow_untrained=true",
        "eval.every=1",
        "eval.sample=false",
        "data.sha256=null",
    ]
    small = ["device=cpu", "precision=32"]
    for number, (_, script, *arguments) in enumerate(
        command for command in COMMANDS if command[1].endswith(".py")
    ):
        given = {argument.split("=")[0] for argument in arguments}
        added = [item for item in small if item.split("=")[0] not in given]
        few = [item for item in FEW if item.split("=")[0] not in given]
        if script == "evaluate.py":
            evaluated(arguments, [*added, *few])
        elif "-m" in arguments:
            sweep(
                arguments, [*tiny, *added, "max_steps=2", "data=json", "data.path=mine.json"], place
            )
        else:
            asked = config("train", TrainConfig, [*arguments, *tiny, *added, "max_steps=2"])
            check_given(asked, arguments)
            folder = to_resume(asked.resume) or place / "outputs" / str(number)
            asked.resume = which_run(asked.resume, folder)
            if asked.resume:
                asked = resumed_config(asked, [*arguments, "max_steps=-1"])
                asked.max_steps = 3
            folder.mkdir(parents=True, exist_ok=True)
            on_devices(asked.devices, train.fit, asked, folder)
            assert json.loads((folder / "summary.json").read_text())["steps"] == (
                3 if asked.resume else 2
            )


def evaluated(arguments: list[str], added: list[str]) -> None:
    asked = config("evaluate", EvaluateConfig, [*arguments, *added])
    check_given(asked, arguments)
    if asked.compare:
        for run in asked.compare:
            Path(run).symlink_to("latest")
        evaluate.compare_runs(asked.compare, asked.out)
        return
    with serving(Site(asked.judge.kind, models={"llama3:latest": "1", "mine": ""})) as site:
        if asked.judge.kind != "none":
            asked.judge.url = site.url
        evaluate.evaluate(asked, sorted({argument.split("=")[0] for argument in arguments}))
        assert bool(site.chats) == (asked.judge.kind != "none")


def sweep(arguments: list[str], added: list[str], place: Path) -> None:
    done = Command(str(ROOT / "train.py"), *arguments, *added, folder=place).finish()
    assert done.returncode == 0, done.stderr.decode()
    [results] = place.glob("outputs/sweeps/*/results.csv")
    lines = results.read_text().splitlines()

    # A header, and the three learning rates.
    assert len(lines) == 4
    assert [line.count("finished") for line in lines[1:]] == [1, 1, 1]
    assert {line.split(",")[1] for line in lines[1:]} == {
        f"optim.lr={lr}" for lr in ("1e-05", "5e-05", "0.0001")
    }


def test_the_notebook_lines_of_the_readme_work(
    place: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [code] = re.findall(r"```python\n(.*?)```", README, re.S)
    run: Callable[..., None] = exec
    run(code.replace('load_pretrained("gpt2")', f'load_pretrained("{checkpoint}")'), {})
    assert re.search(r"\[.*\]\n0\.\d+", capsys.readouterr().out)
    assert (place / "outputs" / "mine" / "tokenizer_config.json").exists()
