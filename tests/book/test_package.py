"""Models of the package `llms-from-scratch`, converted: `make test-book`."""

from pathlib import Path

import pytest
import torch
from llms_from_scratch.ch04 import GPTModel, GPTModelFast

from sft import load_pretrained
from sft.convert import convert_file

IDS = torch.arange(5, 65).view(2, 30)


@torch.no_grad()
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("qkv_bias", [False, True])
@pytest.mark.parametrize("kind", [GPTModel, GPTModelFast])
def test_logits_are_the_packages(
    bpe: Path, tmp_path: Path, kind: type, qkv_bias: bool, compiled: bool
) -> None:
    torch.manual_seed(0)
    shape = {"vocab_size": 400, "context_length": 64, "emb_dim": 768, "n_heads": 12, "n_layers": 2}
    theirs = kind({**shape, "drop_rate": 0.1, "qkv_bias": qkv_bias}).eval()
    for parameter in theirs.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.02)
    saved = torch.compile(theirs) if compiled else theirs
    torch.save(saved.state_dict(), tmp_path / "x.pth")

    convert_file(tmp_path / "x.pth", tmp_path / "out", tokenizer=bpe)
    ours = load_pretrained(tmp_path / "out").model
    torch.testing.assert_close(ours(IDS), theirs(IDS), atol=1e-4, rtol=0)
