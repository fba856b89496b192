"""Interrupted and resumed equals uninterrupted, bit for bit."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sft.atomic import read_numbers
from sft.checkpoint.folder import load_pretrained, save_pretrained
from sft.config.schema import DataConfig, TrainConfig
from sft.errors import InputError
from sft.gpt2.model import GPT
from sft.summaries import FORMER_NANO
from sft.training.checkpoints import CheckpointFiles
from sft.training.resume import Past, resumed_config
from tests.training.processes import finish

Config = Callable[..., TrainConfig]
Run = Callable[..., Path]


def equal(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(equal, left, right))
    return bool(left == right)


def losses(folder: Path) -> list[dict[str, float]]:
    rows = read_numbers(folder / "metrics.csv")
    of_time = ("tokens_per_sec", "mfu")
    return [{key: value for key, value in row.items() if key not in of_time} for row in rows]


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize(("workers", "bucket"), [(0, False), (2, True)])
@pytest.mark.parametrize("stop", ["inside an epoch", "at an epoch's end"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    config: Config, run: Run, accumulate: int, workers: int, bucket: bool, stop: str
) -> None:
    common = {"model__dropout": 0.2, "batch_size": 2, "accumulate": accumulate, "epochs": 2}
    common |= {"data__workers": workers, "data__bucket": bucket}
    steps_per_epoch = -(-42 // (2 * accumulate))
    halt = steps_per_epoch if stop == "at an epoch's end" else steps_per_epoch // 2
    whole = run(config(**common), "whole")

    folder = run(config(**common, max_steps=halt), "parts")
    assert read_numbers(folder / "metrics.csv")[-1]["step"] == halt
    given = dataclasses.replace(config(**common), resume=str(folder))
    resumed = resumed_config(given, ["resume=parts", "max_steps=-1"])
    assert resumed.max_steps == -1
    run(resumed, "parts")

    ends = [
        torch.load(path / "checkpoints/last.ckpt", weights_only=True) for path in (whole, folder)
    ]
    assert ends[0]["global_step"] == ends[1]["global_step"] == 2 * steps_per_epoch
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert equal(ends[0][key], ends[1][key]), key
    cut, uncut = losses(folder), losses(whole)
    assert len(cut) == len(uncut)
    for mine, other in zip(
        cut, uncut, strict=True
    ):  # the row of the halt has probes that the other run did not take
        assert {key: mine[key] for key in other} == other
        assert mine == other or mine["step"] == halt


SWITCHES = {
    "optim__ema": 0.9,
    "optim__neftune": 5.0,
    "optim__schedule": "wsd",
    "optim__min_lr": 1e-4,
    "optim__warmup": 0.2,
    "optim__beta2_half_life": 5000.0,
    "data__prompt_weight": 0.3,
}


def test_a_run_with_every_switch_resumes_exactly(config: Config, run: Run) -> None:
    common: dict[str, Any] = {"accumulate": 2, "eval__every": 0, "logger": "none", **SWITCHES}
    folder = run(config(**common, checkpoint__every=4), "whole")
    whole = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert whole["global_step"] == 12
    assert whole["average"]["steps"] == 12

    # The run before it was killed after step 4, inside the first epoch.
    parts = config(**common, checkpoint__every=4)
    halted = dataclasses.replace(parts, max_steps=-1, epochs=2)
    stop_after(4, lambda: run(halted, "parts"))
    resumed = resumed_config(dataclasses.replace(parts, resume=str(folder.parent / "parts")), [])
    run(resumed, "parts")

    found = torch.load(folder.parent / "parts/checkpoints/last.ckpt", weights_only=True)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "average"):
        assert equal(found[key], whole[key]), key
    assert losses(folder.parent / "parts") == losses(folder)


def stop_after(step: int, train: Callable[[], Any]) -> None:
    """Train until the checkpoint of a step is written, as if the process were killed there."""
    save = CheckpointFiles.save_checkpoint

    def killed(self: CheckpointFiles, checkpoint: dict[str, Any], *given: Any, **more: Any) -> None:
        save(self, checkpoint, *given, **more)
        if checkpoint["global_step"] == step:
            raise RuntimeError("killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointFiles, "save_checkpoint", killed)
        with pytest.raises(RuntimeError, match="killed"):
            train()


def test_a_weighted_run_resumed_inside_an_epoch_equals_an_uninterrupted_one(
    config: Config, run: Run, records_file: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.jsonl"
    items = json.loads(records_file.read_text())[:20]
    lines = [json.dumps(item | {"output": f"{item['output']}!"}) for item in items]
    other.write_text("\n".join(lines))
    common = {"data__path": [str(records_file), str(other)], "data__weights": [0.3, 2]}
    common |= {"epochs": 2, "eval__every": 0, "data__split_by": "random"}
    whole = run(config(**common), "whole")

    # An epoch has 10 steps. The second draws other records than the first.
    folder = run(config(**common, max_steps=15), "parts")
    given = dataclasses.replace(config(**common), resume=str(folder))
    run(resumed_config(given, ["max_steps=-1"]), "parts")
    ends = [
        torch.load(path / "checkpoints/last.ckpt", weights_only=True) for path in (whole, folder)
    ]
    assert ends[0]["global_step"] == ends[1]["global_step"] > 15
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert equal(ends[0][key], ends[1][key]), key
    found = [row["train/loss"] for row in losses(folder) if row["step"]]
    assert found == [row["train/loss"] for row in losses(whole) if row["step"]]


def test_activation_checkpointing_may_begin_with_a_resumed_run(config: Config, run: Run) -> None:
    common = {"model__dropout": 0.2, "epochs": 1, "eval__every": 0}
    whole, folder = run(config(**common), "whole"), run(config(**common, max_steps=6), "parts")
    given = dataclasses.replace(config(**common), resume=str(folder), activation_checkpointing=True)
    resumed = resumed_config(given, ["activation_checkpointing=true", "max_steps=-1"])
    assert resumed.activation_checkpointing
    run(resumed, "parts")
    ends = [
        torch.load(path / "checkpoints/last.ckpt", weights_only=True) for path in (whole, folder)
    ]
    assert equal(ends[0]["state_dict"], ends[1]["state_dict"])


def test_a_licence_that_was_noted_since_does_not_keep_a_run_from_resuming(
    config: Config, run: Run
) -> None:
    folder = run(config(max_steps=1))
    given = config(max_steps=2, data__licence="apache-2.0")
    given = dataclasses.replace(given, resume=str(folder))
    resumed = resumed_config(given, ["data=nano", "max_steps=2"])
    assert (resumed.data.licence, resumed.max_steps) == ("apache-2.0", 2)


def test_checkpoints_keep_the_names_that_older_ones_have(config: Config, run: Run) -> None:
    """Lightning finds the state of a callback by its class's name."""
    folder = run(config(max_steps=1))
    found = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert {"config", "made_of", "global_step", "tracked", "watched"} <= found.keys()
    assert found["watched"].keys() == {"skipped", "recent"}
    assert {name: set(state) for name, state in found["callbacks"].items()} == {
        "SanityGate": {"loss"},
        "Metrics": {"tokens_seen", "seconds", "row", "owed"},
        "RunFolder": {"best", "lowest_loss", "without_better"},
    }


def test_a_finished_run_is_left_alone_and_says_so(
    config: Config, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(config(epochs=1))
    before = (folder / "checkpoints/last.ckpt").stat().st_mtime_ns
    run(resumed_config(dataclasses.replace(config(epochs=1), resume=str(folder)), []))
    assert "11 steps are done" in (folder / "train.log").read_text()
    assert (folder / "checkpoints/last.ckpt").stat().st_mtime_ns == before


@pytest.mark.parametrize(("devices", "strategy"), [(1, "auto"), (2, "fsdp")])
def test_a_run_killed_after_its_last_step_is_completed(
    config: Config, run: Run, devices: int, strategy: str
) -> None:
    """Also by all ranks of a sharded run, since only together can they gather the model."""
    settings = config(
        epochs=1, max_steps=2, data__split=[0.9, 0.1, 0.0], devices=devices, strategy=strategy
    )
    folder = Path("run").absolute()
    folder.mkdir()
    finish(settings, folder, devices)
    whole = {
        name: (folder / name).read_bytes() for name in ("metrics.csv", "model/model.safetensors")
    }
    summary = json.loads((folder / "summary.json").read_text())
    shutil.rmtree(folder / "model")
    (folder / "summary.json").unlink()
    finish(resumed_config(dataclasses.replace(settings, resume=str(folder)), []), folder, devices)
    assert {name: (folder / name).read_bytes() for name in whole} == whole
    again = json.loads((folder / "summary.json").read_text())
    for changing in ("peak_memory_bytes", "config"):
        summary.pop(changing), again.pop(changing)
    assert again == summary


@pytest.mark.parametrize("changed", ["data", "weights"])
def test_a_run_does_not_resume_with_other_data_or_weights(
    config: Config, run: Run, tmp_path: Path, records_file: Path, checkpoint: Path, changed: str
) -> None:
    data, base = tmp_path / "records.json", tmp_path / "base"
    shutil.copy(records_file, data)
    shutil.copytree(checkpoint, base)
    settings = config(epochs=1, max_steps=2, data__path=str(data), model__checkpoint=str(base))
    folder = run(settings)
    if changed == "data":
        data.write_text(json.dumps(json.loads(data.read_text())[::-1]))
    else:
        loaded = load_pretrained(base)
        save_pretrained(GPT(loaded.model.config), base, loaded.tokenizer)
    given = dataclasses.replace(settings, resume=str(folder), max_steps=-1)
    with pytest.raises(InputError, match=rf"^resume: the {changed} changed"):
        run(resumed_config(given, ["max_steps=-1"]))


def test_data_and_run_that_moved_are_gone_on_with(
    config: Config, run: Run, tmp_path: Path, records_file: Path
) -> None:
    data, moved = tmp_path / "records.json", tmp_path / "moved.json"
    shutil.copy(records_file, data)
    settings = config(epochs=1, max_steps=2, data__path=str(data), eval__every=0)
    folder = run(settings).rename(tmp_path / "elsewhere")
    data.rename(moved)
    given = dataclasses.replace(settings, resume=str(folder), max_steps=3)
    with pytest.raises(InputError, match=r"records\.json: .*data\.path="):
        run(resumed_config(given, ["max_steps=3"]), "elsewhere")
    given.data = DataConfig(path=str(moved))  # as composed without data=json
    run(resumed_config(given, ["max_steps=3", "data.path=moved.json"]), "elsewhere")
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["steps"], summary["data"]["path"]) == (3, str(moved))
    kept = summary["config"]["data"]
    assert (kept["source"], kept["path"], kept["split"]) == (
        "json",
        str(moved),
        settings.data.split,
    )
    moved.write_text(moved.read_text() + " ")
    given.max_steps = 4
    with pytest.raises(InputError, match=r"resume: .*data\.path="):
        run(resumed_config(given, ["max_steps=4", "data.path=moved.json"]), "elsewhere")


def test_a_run_of_a_former_nano_does_not_resume() -> None:
    for name, sha256 in zip(("weights", "data"), FORMER_NANO, strict=True):
        past = Past(made_of={name: sha256})
        with pytest.raises(InputError, match=r"runs/old: .*use sft 0\.1\.0"):
            past.check(Path("runs/old"), {name: "ab" * 32})


def test_a_key_that_would_make_another_run_is_refused(config: Config, run: Run) -> None:
    folder = run(config(epochs=1, max_steps=2))
    given = dataclasses.replace(config(epochs=3, batch_size=8, max_steps=2), resume=str(folder))
    assert resumed_config(given, ["epochs=3"]).epochs == 3
    with pytest.raises(
        InputError,
        match=r"^batch_size: 8\b.*\b4; .*\bepochs\b",
    ):
        resumed_config(given, ["epochs=3", "batch_size=8"])


def test_a_key_that_came_after_the_checkpoint_has_its_default(config: Config, run: Run) -> None:
    folder = run(config(epochs=1, max_steps=1))
    path = folder / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    del content["config"]["optim"]["moments"]
    torch.save(content, path)
    path.with_suffix(".ckpt.sha256").unlink()

    given = dataclasses.replace(config(optim__moments="8bit"), resume=str(folder))
    assert resumed_config(given, []).optim.moments == "fp32"
    with pytest.raises(InputError, match=r"^optim\.moments: '8bit', .*'fp32'"):
        resumed_config(given, ["optim.moments=8bit"])


def test_a_folder_without_a_readable_checkpoint_is_refused(config: Config, tmp_path: Path) -> None:
    given = dataclasses.replace(config(), resume=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"nowhere/checkpoints/last\.ckpt "):
        resumed_config(given, [])
    path = tmp_path / "nowhere" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    for content in (b"", b"<html>", b"PK\x03\x04 cut short"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"last\.ckpt: not a checkpoint"):
            resumed_config(given, [])
    torch.save({"config": {}, "global_step": 1}, path)
    with pytest.raises(InputError, match="not a checkpoint of a run"):
        resumed_config(given, [])


def test_a_full_disk_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sft.training.checkpoints import CheckpointFiles

    io, path = CheckpointFiles(), tmp_path / "checkpoints" / "last.ckpt"
    io.save_checkpoint({"weights": torch.ones(3)}, path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match=r"last\.ckpt: cannot be written .*No space left"):
        io.save_checkpoint({"weights": torch.zeros(3)}, path)
    assert torch.equal(io.load_checkpoint(path)["weights"], torch.ones(3))
    assert sorted(item.name for item in path.parent.iterdir()) == ["last.ckpt", "last.ckpt.sha256"]
