"""Decoding in the middle of training converts each weight once."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sft.gpt2.generate import complete
from sft.gpt2.gpt_config import GPTConfig
from sft.gpt2.model import GPT
from sft.training.decoding import decoding

CONFIG = GPTConfig(n_layer=2, n_head=2, n_embd=16, vocab_size=40, n_positions=32)


class Conversions(TorchDispatchMode):
    """Counts the matrices that are converted to bf16."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and args[0].requires_grad:
            self.count += args[0].dim() == 2
        return result


def trainer_in(precision: str) -> Any:
    """Return what `decoding` reads of a trainer, with the contexts that Lightning makes."""

    def context() -> Any:
        if precision == "32-true":
            return nullcontext()
        return torch.autocast("cpu", torch.bfloat16, cache_enabled=False)

    return SimpleNamespace(
        precision_plugin=SimpleNamespace(val_step_context=context),
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )


@pytest.mark.parametrize(("precision", "matrices"), [("bf16-mixed", 2 * 4 + 1), ("32-true", 0)])
def test_each_matrix_is_converted_once_for_all_tokens(precision: str, matrices: int) -> None:
    trainer = trainer_in(precision)
    model = GPT(CONFIG).eval()
    with decoding(trainer, compiled=False), Conversions() as conversions:
        [answer] = complete(model, [[1, 2, 3]], 8, slots=1)
    assert conversions.count == matrices

    with trainer.precision_plugin.val_step_context(), Conversions() as conversions:
        [expected] = complete(model, [[1, 2, 3]], 8, slots=1)
    assert conversions.count == 8 * matrices
    assert answer.tokens == expected.tokens
    assert not torch.is_autocast_enabled("cpu")
    assert torch.is_autocast_cache_enabled()
