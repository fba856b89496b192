"""Transformers' GPT-2, for comparison, and a way to change the limits of a device."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from sft.gpt2.fast import LIMITS
from sft.gpt2.lora import is_adapter
from sft.gpt2.model import GPT


def shake(model: GPT, size: float = 0.1) -> None:
    """Give adapters random values, as training would."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_adapter(name):
                parameter.add_(torch.randn_like(parameter), alpha=size)


@pytest.fixture
def change_limits(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Change some of the CPU's limits, by name, until the test ends."""

    def change(**values: int | bool) -> None:
        monkeypatch.setitem(LIMITS, "cpu", replace(LIMITS["cpu"], **values))

    return change


@pytest.fixture
def hf_model() -> Callable[..., GPT2LMHeadModel]:
    """Make a random GPT2LMHeadModel in which no bias is 0 and no LayerNorm is the identity."""

    def make(
        n_layer: int = 2,
        n_head: int = 2,
        n_embd: int = 16,
        vocab_size: int = 400,
        n_positions: int = 64,
        **more,
    ) -> GPT2LMHeadModel:
        torch.manual_seed(n_layer)
        config = GPT2Config(
            n_layer=n_layer,
            n_head=n_head,
            n_embd=n_embd,
            vocab_size=vocab_size,
            n_positions=n_positions,
            bos_token_id=vocab_size - 1,
            eos_token_id=vocab_size - 1,
            **more,
        )
        model = GPT2LMHeadModel(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                spread = 0.1 if parameter.dim() == 1 else 0.05
                parameter.add_(torch.randn_like(parameter), alpha=spread)
        return model

    return make


@pytest.fixture
def hf_folder(bpe: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write such a model with transformers' own save_pretrained, and add the tiny tokenizer."""

    def write(model: GPT2LMHeadModel, **options) -> Path:
        folder = tmp_path / "hf"
        model.save_pretrained(folder, **options)
        for name in ("vocab.json", "merges.txt"):
            (folder / name).write_bytes((bpe / name).read_bytes())
        return folder

    return write
