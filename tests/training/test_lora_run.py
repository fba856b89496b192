"""Runs with an adapter: what they leave, however they are divided, interrupted or rounded."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel

from sft.atomic import read_numbers
from sft.checkpoint.folder import load_pretrained
from sft.config.schema import LoraConfig, TrainConfig
from sft.errors import InputError
from sft.evaluation.setup import setup_of_run
from sft.gpt2.lora import add_lora, is_adapter
from sft.gpt2.model import GPT
from sft.prompts import PROMPTS
from sft.training.resume import resumed_config
from tests.training.processes import finish

Config = Callable[..., TrainConfig]
Run = Callable[..., Path]
IDS = torch.arange(40).view(2, 20)
LORA = {"kind": "default", "rank": 2, "alpha": 8.0}


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def losses(folder: Path) -> list[dict[str, float]]:
    rows = read_numbers(folder / "metrics.csv")
    return [
        {key: value for key, value in row.items() if "loss" in key or key == "lr"} for row in rows
    ]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[GPT]:
    """The models that runs give an adapter to, as they are in memory."""
    models: list[GPT] = []

    def noted(model: GPT, config: LoraConfig, seed: int) -> None:
        add_lora(model, config, seed)
        models.append(model)

    monkeypatch.setattr("sft.training.run.add_lora", noted)
    return models


@torch.no_grad()
def test_a_lora_run_trains_its_adapter_alone_and_keeps_it_twice(
    config: Config, run: Run, checkpoint: Path, trained: list[GPT]
) -> None:
    folder = run(config(lora=LORA, epochs=1, optim__lr=0.01, optim__weight_decay=0.5))

    base = load_pretrained(checkpoint).model
    for name, tensor in trained[0].state_dict().items():
        assert is_adapter(name) or torch.equal(tensor, base.state_dict()[name]), name
    kept = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    names = {f"model.{name}" for name in trained[0].state_dict() if is_adapter(name)}
    assert kept["state_dict"].keys() == names
    assert len(kept["optimizer_states"][0]["state"]) == len(names) == 2 * 2 * 4

    merged = load_pretrained(folder / "model")
    logits = trained[0].eval()(IDS)
    assert (logits - base(IDS)).abs().max() > 0.01
    torch.testing.assert_close(merged.model(IDS), logits, atol=1e-5, rtol=0)
    assert torch.equal(load_pretrained(folder / "adapter").model(IDS), merged.model(IDS))
    assert (merged.prompt, merged.base) == (PROMPTS["phi3"], str(checkpoint))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["losses"]["val/full_loss"]["last"] < summary["losses"]["val/loss"]["first"]
    setup = setup_of_run(str(folder))
    assert {name: model.source for name, model in setup.models.items()} == {
        "tuned": str(folder / "model"),
        "base": str(checkpoint),
    }


@torch.no_grad()
def test_merging_starts_from_the_stored_weights_not_the_rounded_copy(
    config: Config, run: Run, checkpoint: Path, trained: list[GPT]
) -> None:
    """In bf16 the copy in memory is rounded, as autocast would; `model/` is not."""
    folder = run(config(lora=LORA | {"targets": ["c_fc"]}, max_steps=2, precision="bf16-mixed"))
    assert trained[0].h[0].attn.c_attn.weight.dtype == torch.bfloat16
    assert trained[0].h[0].mlp.c_fc.lora_B.dtype == torch.float32
    theirs = PeftModel.from_pretrained(
        GPT2LMHeadModel.from_pretrained(checkpoint).eval(), folder / "adapter"
    )
    torch.testing.assert_close(
        theirs(IDS).logits, load_pretrained(folder / "model").model(IDS), atol=1e-5, rtol=0
    )
    base, merged = (
        load_pretrained(checkpoint).model.h[0],
        load_pretrained(folder / "model").model.h[0],
    )
    assert torch.equal(merged.attn.c_attn.weight, base.attn.c_attn.weight)
    layer = trained[0].h[0].mlp.c_fc
    assert torch.equal(
        merged.mlp.c_fc.weight, base.mlp.c_fc.weight + layer.scale * (layer.lora_B @ layer.lora_A)
    )


def test_the_adapter_kept_is_the_best_not_the_last(config: Config, run: Run) -> None:
    folder = run(config(lora=LORA, optim__lr=1.0, epochs=3))
    full = [
        row["val/full_loss"]
        for row in read_numbers(folder / "metrics.csv")
        if "val/full_loss" in row
    ]
    assert full[-1] > min(full)
    last = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    A = "h.0.attn.c_attn.lora_A"
    assert not torch.equal(
        adapter(folder)[f"base_model.model.transformer.{A}.weight"], last[f"model.{A}"]
    )


def test_a_resumed_lora_run_equals_an_uninterrupted_one(config: Config, run: Run) -> None:
    common: dict[str, Any] = {
        "lora": LORA | {"dropout": 0.3},
        "model__dropout": 0.2,
        "accumulate": 2,
        "batch_size": 2,
    }
    whole = run(config(**common), "whole")
    folder = run(config(**common, max_steps=5), "parts")
    given = dataclasses.replace(config(**common), resume=str(folder))
    run(resumed_config(given, ["max_steps=-1"]), "parts")
    ends = [
        torch.load(path / "checkpoints/last.ckpt", weights_only=True) for path in (whole, folder)
    ]
    assert ends[0]["global_step"] == ends[1]["global_step"] == 22
    assert ends[0]["state_dict"].keys() == ends[1]["state_dict"].keys()
    assert all(
        torch.equal(ends[0]["state_dict"][name], ends[1]["state_dict"][name])
        for name in ends[0]["state_dict"]
    )
    assert all(torch.equal(adapter(whole)[key], adapter(folder)[key]) for key in adapter(whole))
    assert losses(whole)[-1] == losses(folder)[-1]
    with pytest.raises(InputError, match=r"^lora\.rank: 4\b.*\b2\b"):
        resumed_config(
            dataclasses.replace(given, lora=LoraConfig("default", rank=4)), ["lora.rank=4"]
        )


def test_two_ranks_with_a_bf16_base_train_as_one(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In fp32 any division of a step is compared in test_module.py."""
    monkeypatch.chdir(tmp_path)
    settings = config(lora=LORA, batch_size=8, epochs=1, optim__lr=0.01, precision="bf16-mixed")
    for devices in (1, 2):
        divided = dataclasses.replace(settings, devices=devices, batch_size=8 // devices)
        finish(divided, tmp_path / str(devices), devices)
    one, two = losses(tmp_path / "1"), losses(tmp_path / "2")
    assert one[-1]["val/loss"] < one[0]["val/loss"] - 0.05
    for left, right in zip(one, two, strict=True):
        # The answers are few tokens, so their loss varies more in bf16.
        assert left.pop("val/answer_loss", 0) == pytest.approx(
            right.pop("val/answer_loss", 0), abs=3e-2
        )
        assert left == pytest.approx(right, abs=1e-2)


def test_an_adapter_is_refused_as_the_base_of_another(config: Config, run: Run) -> None:
    folder = run(config(lora=LORA, max_steps=1))
    with pytest.raises(InputError, match=r"^model\.checkpoint: .*is an adapter.*model/"):
        run(config(lora=LORA, model__checkpoint=str(folder / "adapter")), "again")
    again = run(config(model__checkpoint=str(folder / "adapter"), max_steps=1), "again")
    assert load_pretrained(again / "model").base == str(folder / "adapter")


@pytest.mark.parametrize("given", ["lora.rank=4", "lora.targets=[c_fc]", "++lora.alpha=8"])
def test_lora_keys_without_an_adapter_are_refused(command: Callable[..., None], given: str) -> None:
    with pytest.raises(SystemExit) as end:
        command(given)
    key = given.lstrip("+").split("=")[0]
    assert end.value.code == f"error: {key}: would not be read without an adapter; add lora=default"
