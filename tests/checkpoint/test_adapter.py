"""Adapters go to PEFT and back with the same logits. Others, and damage, are refused by key."""

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GPT2LMHeadModel

from sft.checkpoint.folder import (
    Pretrained,
    load_pretrained,
    merge_adapter,
    save_adapter,
    save_pretrained,
)
from sft.config.schema import LoraConfig
from sft.errors import InputError
from sft.gpt2.lora import add_lora
from sft.prompts import PROMPTS
from tests.gpt2.conftest import shake

IDS = torch.arange(40).view(2, 20)
A = "base_model.model.transformer.h.1.mlp.c_fc.lora_A.weight"


@pytest.fixture
def base(hf_model, hf_folder) -> Path:
    return hf_folder(hf_model())


def tuned(base: Path, config: LoraConfig) -> Pretrained:
    """The base with an adapter that is not nothing."""
    loaded = load_pretrained(base)
    add_lora(loaded.model, config)
    shake(loaded.model)
    return loaded


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    """An adapter of ours."""
    config = LoraConfig(rank=4, alpha=6.0)
    save_adapter(
        tuned(base, config), config, tmp_path / "adapter", prompt="Q: {{ instruction }}\nA: "
    )
    return tmp_path / "adapter"


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def of_peft(base: Path, adapter: Path) -> peft.PeftModel:
    return peft.PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained(base).eval(), adapter)


# The way out


@torch.no_grad()
@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(),
        LoraConfig(rank=3, alpha=2.5, dropout=0.5, targets=["c_proj"]),
        LoraConfig(rank=40),
    ],
)
def test_peft_loads_ours(base, tmp_path, config):
    ours = tuned(base, config)
    save_adapter(ours, config, tmp_path / "adapter")
    expected = ours.model.eval()(IDS)
    assert (expected - load_pretrained(base).model(IDS)).abs().max() > 0.01
    theirs = of_peft(base, tmp_path / "adapter")
    same(theirs(IDS).logits, expected)
    assert theirs.peft_config["default"].lora_dropout == config.dropout


@torch.no_grad()
def test_loaded_and_merged_it_has_the_same_logits(base, folder, tmp_path):
    expected = tuned(base, LoraConfig(rank=4, alpha=6.0)).model.eval()(IDS)
    loaded = load_pretrained(folder)
    same(loaded.model(IDS), expected)
    assert (loaded.source, loaded.base) == (str(folder), str(base))
    assert loaded.prompt == "Q: {{ instruction }}\nA: "

    merge_adapter(folder, tmp_path / "merged")
    merged = load_pretrained(tmp_path / "merged")
    assert torch.equal(merged.model(IDS), loaded.model(IDS))
    assert (merged.prompt, merged.base, merged.adapter) == (loaded.prompt, str(base), None)
    same(GPT2LMHeadModel.from_pretrained(tmp_path / "merged")(IDS).logits, expected)
    assert AutoTokenizer.from_pretrained(folder)("trees")[
        "input_ids"
    ] == merged.tokenizer.encode_ordinary("trees")


@torch.no_grad()
def test_adapter_is_added_before_rounding_to_bf16(base, tmp_path):
    """An adapter is added before its base is rounded to bf16, in which some would vanish."""
    config = LoraConfig()
    loaded = load_pretrained(base)
    add_lora(loaded.model, config)
    shake(loaded.model, 0.01)
    save_adapter(loaded, config, tmp_path / "adapter")
    exact = load_pretrained(tmp_path / "adapter").model.state_dict()
    for name, tensor in (
        load_pretrained(tmp_path / "adapter", dtype=torch.bfloat16).model.state_dict().items()
    ):
        assert torch.equal(tensor, exact[name].bfloat16())


@torch.no_grad()
def test_base_stored_in_bf16_is_widened_before_adding(base, tmp_path):
    loaded = load_pretrained(base)
    save_pretrained(loaded.model, tmp_path / "narrow", loaded.tokenizer, dtype=torch.bfloat16)
    config = LoraConfig()
    adapted = tuned(tmp_path / "narrow", config)
    save_adapter(adapted, config, tmp_path / "adapter")
    same(load_pretrained(tmp_path / "adapter").model(IDS), adapted.model.eval()(IDS))


def test_prompt_comes_from_the_adapter_or_else_from_its_base(checkpoint, tmp_path):
    config = LoraConfig()
    save_adapter(tuned(checkpoint, config), config, tmp_path / "adapter", prompt=None)
    assert load_pretrained(tmp_path / "adapter").prompt is None
    (tmp_path / "adapter" / "tokenizer_config.json").unlink()
    assert load_pretrained(tmp_path / "adapter").prompt == PROMPTS["alpaca"]


def test_hash_changes_with_the_config_and_differs_from_the_base(base, folder):
    before = load_pretrained(folder)
    assert before.sha256 != load_pretrained(base).sha256
    change_config(folder, lora_alpha=7)
    after = load_pretrained(folder, device="meta")
    assert after.sha256 != before.sha256
    assert after.model.h[0].attn.c_attn.weight.device.type == "meta"


def test_model_with_adapters_is_not_saved_as_a_whole_model(base, tmp_path):
    ours = tuned(base, LoraConfig())
    with pytest.raises(ValueError, match=r"the model has adapters: .*save_adapter"):
        save_pretrained(ours.model, tmp_path / "out", ours.tokenizer)
    assert not (tmp_path / "out").exists()


# The way in


@pytest.mark.parametrize("rslora", [False, True])
def test_what_peft_trained_is_loaded(base, hf_model, tmp_path, rslora):
    options: dict[str, Any] = {"target_modules": ["c_attn", "mlp.c_proj"], "r": 5, "lora_alpha": 7}
    config = peft.LoraConfig(
        **options, lora_dropout=0.1, use_rslora=rslora, task_type="CAUSAL_LM", fan_in_fan_out=True
    )
    theirs = peft.get_peft_model(GPT2LMHeadModel.from_pretrained(base), config)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=0.05)
    for _ in range(5):
        theirs(IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_pretrained(tmp_path / "theirs")
    with torch.no_grad():
        expected = theirs.eval()(IDS).logits
        same(ours.model(IDS), expected)
        assert (expected - load_pretrained(base).model(IDS)).abs().max() > 0.1
    assert (ours.base, ours.prompt) == (str(base), None)


# What is refused


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refused(folder: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        load_pretrained(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("peft_type", "IA3", "peft_type: 'IA3' is not implemented, expected 'LORA'"),
        ("peft_type", None, "peft_type: None is not implemented"),
        ("use_dora", True, "use_dora: True is not implemented"),
        ("bias", "all", "bias: 'all' is not implemented"),
        ("modules_to_save", ["wte"], r"modules_to_save: \['wte'\] is not implemented"),
        ("rank_pattern", {"c_fc": 2}, r"rank_pattern: \{'c_fc': 2\} is not implemented"),
        ("layers_to_transform", [1], r"layers_to_transform: \[1\] is not implemented"),
        ("init_lora_weights", "pissa", "init_lora_weights: 'pissa' is not implemented"),
        ("invented_next_year", 1, "invented_next_year: 1 is not implemented"),
        ("r", 0, "r: expected a whole number from 1 up, found 0"),
        ("r", "8", "r: expected a whole number from 1 up, found '8'"),
        ("lora_alpha", True, "lora_alpha: expected a number above 0, found True"),
        (
            "target_modules",
            ".*c_attn",
            r"target_modules: expected a list of layers' names, found '\.\*c_attn'",
        ),
        ("target_modules", [1], r"target_modules: expected a list of layers' names, found \[1\]"),
        (
            "base_model_name_or_path",
            None,
            "base_model_name_or_path: expected the base's name, found None",
        ),
        (
            "base_model_name_or_path",
            "/nowhere",
            "base_model_name_or_path: /nowhere: no such folder",
        ),
        ("revision", 3, "revision: expected a commit, a tag or a branch, found 3"),
    ],
)
def test_config_of_another_adapter_is_refused_by_key(folder, key, value, message):
    change_config(folder, **{key: value})
    refused(folder, rf"adapter_config\.json: {message}")


def drop(tensors):
    return {key: tensor for key, tensor in tensors.items() if key != A}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, r"no tensor 'h\.1\.mlp\.c_fc\.lora_A\.weight' of shape \(4, 16\)"),
        (
            lambda tensors: tensors | {A: torch.ones(3, 16)},
            rf"{A}': expected shape \(4, 16\), found \(3, 16\)",
        ),
        (
            lambda tensors: tensors | {A: torch.ones(4, 16).int()},
            rf"{A}': expected one of F32, F16, BF16, found I32",
        ),
        (
            lambda tensors: tensors | {"lm_head.lora_A.weight": torch.ones(2)},
            "'lm_head.lora_A.weight' is not part of",
        ),
    ],
)
def test_adapter_tensors_that_do_not_fit_are_refused(folder, change, message):
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(change(tensors), folder / "adapter_model.safetensors")
    refused(folder, rf"adapter_model\.safetensors: .*{message}")


def test_damaged_or_missing_adapter_files_are_refused(folder):
    path = folder / "adapter_model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    refused(folder, r"adapter_model\.safetensors: not a whole safetensors file")
    path.unlink()
    refused(folder, r"adapter_model\.safetensors: no such file, but adapter_config\.json is there")
    (folder / "adapter_config.json").write_text("[")
    refused(folder, r"adapter_config\.json: not JSON")


def test_base_with_other_weights_is_refused(folder, base, hf_model):
    loaded = load_pretrained(base)
    with torch.no_grad():
        loaded.model.wte.weight.mul_(2)
    shutil.rmtree(base)
    save_pretrained(loaded.model, base, loaded.tokenizer)
    refused(folder, r"was trained with other weights than .*hf has now")


def test_adapter_of_an_adapter_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "outer")
    change_config(tmp_path / "outer", base_model_name_or_path=str(folder))
    refused(tmp_path / "outer", "is an adapter too; merge that first")
