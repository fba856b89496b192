"""A run, from records to the folder that it leaves."""

import dataclasses
import json
import math
import os
import re
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from sft import launch
from sft.atomic import read_numbers
from sft.checkpoint.folder import load_pretrained, save_pretrained
from sft.config.schema import TrainConfig
from sft.data.datamodule import InstructionData
from sft.data.sources import load_source
from sft.data.splits import encode_splits, part_rows, split_source
from sft.errors import InputError
from sft.gpt2.model import GPT, GPTConfig
from sft.launch import on_devices
from sft.prompts import PROMPTS
from sft.training.checkpoints import CheckpointFiles
from sft.training.material import load_data
from sft.training.module import InstructionTuner

Config = Callable[..., TrainConfig]
Run = Callable[..., Path]


def validation_loss(folder: Path, config: TrainConfig) -> float:
    """The mean over the validation split's labels, one row at a time."""
    loaded = load_pretrained(folder)
    loaded.model.eval()
    parts = split_source(load_source(config.data), config.data)
    template = PROMPTS[config.data.prompt]
    examples = encode_splits(parts, template, loaded.tokenizer, None, 128, config.data.mask_prompt)[
        "validation"
    ].examples
    with torch.no_grad():
        losses = [
            loaded.model.token_losses(*examples.batch([row])[:2]) for row in range(len(examples))
        ]
    return float(torch.cat(losses).mean())


def test_the_folder_is_complete_and_its_numbers_are_right(
    config: Config, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {
        "HF_TOKEN": "hf_aSecret",
        "OPENAI_API_KEY": "sk-aSecret",
        "WANDB_API_KEY": "wandbSecret",
    }
    for name, secret in secrets.items():
        monkeypatch.setenv(name, secret)
    settings = config(optim__warmup_steps=4, eval__sample=True, epochs=2)
    folder = run(settings)
    names = {path.name for path in folder.iterdir()}
    expected = {
        "train.log",
        "metrics.csv",
        "tensorboard",
        "loss.png",
        "loss.pdf",
        "checkpoints",
        "model",
        "summary.json",
    }
    assert names == expected
    assert Path("outputs/latest").resolve() == folder

    rows = read_numbers(folder / "metrics.csv")
    assert [row["step"] for row in rows] == list(
        range(23)
    )  # 42 records in batches of 4: 11 steps an epoch
    losses = {"train/eval_loss", "val/loss", "val/answer_loss", "val/token_accuracy"}
    assert rows[0].keys() == {"step", "epoch", "tokens_seen", *losses}
    assert [row["lr"] for row in rows[1:6]] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3])
    assert [row["step"] for row in rows if "val/loss" in row] == list(range(0, 23, 2))
    assert [row["step"] for row in rows if "val/full_loss" in row] == [11, 22]
    assert rows[11]["epoch"] == 1
    assert rows[22]["tokens_seen"] == 2 * rows[11]["tokens_seen"]

    summary = json.loads((folder / "summary.json").read_text())
    assert summary["data"]["splits"]["train"]["records"] == 42
    assert summary["data"]["splits"]["test"]["records"] == 6
    assert summary["data"]["splits"]["validation"]["records"] == 12
    assert rows[11]["tokens_seen"] == summary["data"]["splits"]["train"]["tokens"]
    assert summary["losses"]["val/full_loss"]["last"] == rows[22]["val/full_loss"]
    assert rows[22]["val/full_loss"] < rows[11]["val/full_loss"] < rows[0]["val/loss"]
    assert summary["best_validation_loss"] == pytest.approx(
        validation_loss(folder / "model", settings), abs=1e-5
    )
    log = (folder / "train.log").read_text()
    assert log.count("answer:") == 3  # before training and after each of two epochs
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert not [
        secret
        for secret in secrets.values()
        if any(secret.encode() in content for content in files)
    ]


def test_row_0_is_the_loss_of_the_untouched_model(
    config: Config, run: Run, checkpoint: Path
) -> None:
    settings = config(eval__batches=100, max_steps=1)
    rows = read_numbers(run(settings) / "metrics.csv")
    assert rows[0]["val/loss"] == pytest.approx(validation_loss(checkpoint, settings), abs=1e-5)


def test_model_keeps_the_best_weights_not_the_last(
    config: Config, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Noise on the weights makes the third epoch end with a worse loss than the second.
    def spoil(module: InstructionTuner) -> None:
        if module.current_epoch == 2:
            for parameter in module.parameters():
                parameter.data += 10 * torch.randn_like(parameter)

    monkeypatch.setattr(InstructionTuner, "on_train_epoch_start", spoil)
    settings = config(epochs=3)
    folder = run(settings)
    full = [
        row["val/full_loss"]
        for row in read_numbers(folder / "metrics.csv")
        if "val/full_loss" in row
    ]
    assert len(full) == 3
    assert full[-1] > min(full)
    assert validation_loss(folder / "model", settings) == pytest.approx(min(full), rel=1e-5)


def test_without_validation_the_last_weights_are_kept(config: Config, run: Run) -> None:
    folder = run(config(data__split=[0.9, 0.1, 0.0], epochs=1))
    assert load_pretrained(folder / "model").prompt == PROMPTS["phi3"]
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert torch.equal(
        load_pretrained(folder / "model").model.wte.weight,
        checkpoint["state_dict"]["model.wte.weight"],
    )
    assert json.loads((folder / "summary.json").read_text())["best_validation_loss"] is None


def test_untrained_weights_are_refused(config: Config, run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^model\.checkpoint: .*model\.allow_untrained=true"):
        run(config(model__allow_untrained=False))
    assert not (tmp_path / "outputs").exists()
    assert not (tmp_path / "run" / "summary.json").exists()
    assert not (tmp_path / "run" / "model").exists()


def test_a_loss_of_nan_stops_before_the_step_and_names_its_records(
    config: Config, run: Run, checkpoint: Path, tmp_path: Path
) -> None:
    from sft.checkpoint.folder import save_pretrained

    broken = load_pretrained(checkpoint)
    [token] = broken.tokenizer.encode_ordinary("7")  # stands in the 30th training record alone
    records = [
        {"instruction": "the chef", "output": "7" if i == 29 else "cooks"} for i in range(60)
    ]
    with torch.no_grad():
        broken.model.wte.weight[token] = math.nan
    save_pretrained(broken.model, tmp_path / "broken", broken.tokenizer)
    data = tmp_path / "seven.json"
    data.write_text(json.dumps(records))
    settings = config(
        model__checkpoint=str(tmp_path / "broken"),
        data__path=str(data),
        data__shuffle=False,
        eval__every=0,
    )
    with pytest.raises(InputError, match=r"step 1: loss nan") as error:
        run(settings)  # every logit row holds a NaN, as the head is the embedding
    assert "[1, 2, 3, 4]" in str(error.value)
    assert not (tmp_path / "run" / "model").exists()


def break_losses(monkeypatch: pytest.MonkeyPatch, steps: set[int], factor: float) -> None:
    """Training losses of these steps, counted from 1, are so many times as high."""
    honest, taken = InstructionTuner.training_step, count(1)

    def broken(self: InstructionTuner, *arguments: Any) -> torch.Tensor:
        by = factor if next(taken) in steps else 1.0
        total = honest(self, *arguments) * by
        self._sums[-1] *= by
        return total

    monkeypatch.setattr(InstructionTuner, "training_step", broken)


def test_a_step_of_nan_can_be_skipped(
    config: Config, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(max_steps=6, on_nonfinite="skip", eval__every=0, data__shuffle=False)
    before = torch.load(
        run(dataclasses.replace(settings, max_steps=2)) / "checkpoints/last.ckpt", weights_only=True
    )
    break_losses(monkeypatch, {3}, math.nan)
    three = torch.load(
        run(dataclasses.replace(settings, max_steps=3)) / "checkpoints/last.ckpt", weights_only=True
    )
    assert all(
        torch.equal(three["state_dict"][key], value) for key, value in before["state_dict"].items()
    )
    assert three["global_step"] == 3
    break_losses(monkeypatch, {3}, math.nan)
    folder = run(settings, "on")
    text = (folder / "train.log").read_text()
    assert re.search(r"step 3: loss nan .*\[9, 10, 11, 12\]", text)
    rows = read_numbers(folder / "metrics.csv")
    assert [row["step"] for row in rows if not math.isfinite(row["train/loss"])] == [3]
    assert json.loads((folder / "summary.json").read_text())["best_validation_loss"] < 6


def test_five_skipped_steps_in_a_row_end_the_run(
    config: Config, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_losses(monkeypatch, {1, 2, 3, 4, *range(6, 99)}, math.nan)
    with pytest.raises(InputError, match=r"^step 10: loss nan"):
        run(config(on_nonfinite="skip", eval__every=0))


def test_a_spike_of_the_loss_is_warned_of(
    config: Config, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_losses(monkeypatch, {55}, 1e3)
    folder = run(config(batch_size=2, epochs=3, max_steps=60, eval__every=0, optim__lr=1e-6))
    warnings = [
        line for line in (folder / "train.log").read_text().splitlines() if "far from the" in line
    ]
    assert len(warnings) == 1
    assert "step 55: loss " in warnings[0]


def test_out_of_memory_in_a_step_names_the_batch_size(
    config: Config, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …")

    monkeypatch.setattr(InstructionTuner, "training_step", full)
    told = r"^batch_size: .*\b4 records\b.*\(CUDA out of memory\); .*\baccumulate\b"
    with pytest.raises(InputError, match=told):
        run(config())


@pytest.mark.parametrize(
    ("every", "minutes", "expected"),
    [(2, None, [2, 4]), (None, 1e-9, [1, 2, 3, 4]), (3, None, [3])],
)
def test_checkpoints_come_by_steps_and_minutes_after_their_row(
    config: Config,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    every: int,
    minutes: float,
    expected: list[int],
) -> None:
    saved = []
    honest = CheckpointFiles.save_checkpoint

    def save(
        self: CheckpointFiles, checkpoint: dict[str, Any], *arguments: Any, **more: Any
    ) -> None:
        saved.append(checkpoint["global_step"])
        rows = read_numbers(Path("run/metrics.csv"))
        assert rows[-1]["step"] == saved[-1]  # a run killed now has the row when it resumes
        honest(self, checkpoint, *arguments, **more)

    monkeypatch.setattr(CheckpointFiles, "save_checkpoint", save)
    settings = {
        "checkpoint__every": every,
        "checkpoint__minutes": minutes,
        "data__split": [0.33, 0.33, 0.34],
    }
    run(config(**settings, epochs=1))
    assert saved == [*expected, 5]  # and at the epoch's end


def test_two_runs_of_one_seed_are_the_same_run(config: Config, run: Run) -> None:
    settings = config(model__dropout=0.2, epochs=1)
    first, second = (run(settings, name) / "checkpoints" / "last.ckpt" for name in "ab")
    weights = [torch.load(path, weights_only=True)["state_dict"] for path in (first, second)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    other = torch.load(
        run(config(model__dropout=0.2, epochs=1, seed=7), "c") / "checkpoints/last.ckpt"
    )["state_dict"]
    assert not torch.equal(other["model.wte.weight"], weights[0]["model.wte.weight"])


def break_loss_of_rank_1(config: TrainConfig, folder: Path) -> None:
    """The run, in which the loss on one rank alone is no number."""
    honest = GPT.token_scores

    def broken(model: GPT, *batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        losses, hits = honest(model, *batch)
        return losses * (math.nan if model.training and os.environ["RANK"] == "1" else 1), hits

    GPT.token_scores = broken  # type: ignore[method-assign]
    train.fit(config, folder)


def test_records_of_a_loss_of_nan_are_named_from_every_rank(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = config(devices=2, data__shuffle=False, eval__every=0)
    with pytest.raises(InputError, match=r"records \[5, 6, 7, 8\]"):
        on_devices(2, break_loss_of_rank_1, settings, tmp_path)


def test_a_full_disk_on_several_ranks_is_one_line(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loss.png").symlink_to("/dev/full")
    with pytest.raises(
        InputError, match=r"loss\.png: cannot be written \(No space left on device\)"
    ):
        on_devices(2, train.fit, config(devices=2, max_steps=1), tmp_path)


def test_the_losses_after_training_are_taken_after_the_last_step(config: Config, run: Run) -> None:
    folder = run(config(eval__every=5, max_steps=7))
    rows = read_numbers(folder / "metrics.csv")
    assert [row["step"] for row in rows if "val/loss" in row] == [0, 5, 7]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["losses"]["val/loss"]["last"] == rows[7]["val/loss"]


def test_compile_without_a_compiler_is_refused(
    config: Config, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match=r"no-such-compiler.*\bCXX\b"):
        run(config(compile=True))


def test_compiled_layers_train_as_uncompiled_ones(
    config: Config, run: Run, tmp_path: Path, tokenizer: Any
) -> None:
    """A sample answer must not compile each of ten layers anew, beyond torch's limit."""
    torch.manual_seed(0)
    deep = GPTConfig(n_layer=10, n_head=2, n_embd=8, vocab_size=tokenizer.n_vocab, n_positions=128)
    save_pretrained(GPT(deep), tmp_path / "deep", tokenizer)
    settings = {"model__checkpoint": str(tmp_path / "deep"), "max_steps": 3, "eval__sample": True}
    torch._dynamo.reset()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        plain, compiled = (run(config(**settings, compile=on), str(on)) for on in (False, True))
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    for one, other in zip(
        *(read_numbers(folder / "metrics.csv") for folder in (plain, compiled)), strict=True
    ):
        assert other["tokens_seen"] == one["tokens_seen"]
        assert [other[key] for key in one if "loss" in key] == pytest.approx(
            [one[key] for key in one if "loss" in key], abs=1e-5
        )


def test_torch_is_silenced_before_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything that imports torch, which a resumed run's config does."""
    monkeypatch.setattr("sys.argv", ["train.py"])
    monkeypatch.setattr(os, "environ", {})
    launch.run(lambda: os.environ.update(FOUND=os.environ["TORCH_CPP_LOG_LEVEL"]))
    assert os.environ["FOUND"] == "ERROR"


def test_the_seed_moves_no_record_between_splits(config: Config) -> None:
    def loaded(**changes: Any) -> InstructionData:
        settings = config(data__split_by="random", **changes)
        source = load_source(settings.data)
        base = load_pretrained(settings.model.checkpoint)
        parts = part_rows(source, settings.data)
        return load_data(settings, source, parts, base, "cpu", PROMPTS["alpaca"])

    def questions(data: InstructionData) -> dict[str, list[int]]:
        return {name: split.questions.tolist() for name, split in data.splits.items()}

    one, other = loaded(seed=1), loaded(seed=2)
    assert questions(one) == questions(other)
    assert one.plan(1).order(0).tolist() != other.plan(1).order(0).tolist()
    assert questions(loaded(seed=1, data__split_seed=5)) != questions(one)


@pytest.mark.parametrize("steps", [4, 7])
def test_a_profile_has_a_trace_and_the_longest_operations(
    config: Config, run: Run, steps: int
) -> None:
    folder = run(config(max_steps=steps, eval__every=0, profile=True)) / "profile"
    [trace] = folder.glob("*.pt.trace.json")
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert "Optimizer.step#AdamW.step" in names
    table = (folder / "operations.txt").read_text()
    assert len([line for line in table.splitlines() if " ms" in line or "us " in line]) <= 11
    assert "aten::" in table


def test_a_run_that_is_too_short_for_a_profile_says_so(config: Config, run: Run) -> None:
    folder = run(config(max_steps=2, eval__every=0, profile=True))
    assert "profile: nothing was traced" in (folder / "train.log").read_text()
    assert not (folder / "profile").exists()


def test_a_row_has_the_norm_of_the_gradient_and_the_share_of_the_products(
    config: Config, run: Run
) -> None:
    rows = read_numbers(run(config(max_steps=3, eval__every=0)) / "metrics.csv")
    for row in rows:
        assert 0 < row["grad_norm"] < 1000
        assert 0 < row["mfu"] < 1
        assert 0 <= row["train/token_accuracy"] < 1


def test_the_bar_ends_where_max_steps_ends_the_run(
    config: Config, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """42 records are 11 batches of 4 in an epoch, and so 6 steps: the last has one batch."""
    monkeypatch.setattr("sft.bars.EVERY", 0.0)
    run(config(epochs=3, max_steps=8, accumulate=2))
    shown = set(re.findall(r"(epoch \d): +100% (\d+/\d+)", capsys.readouterr().out))
    assert shown == {("epoch 1", "11/11"), ("epoch 2", "4/4")}
