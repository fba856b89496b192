"""The operations of a step are those of its matrix products, counted by hand."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from sft.config.schema import EvalConfig
from sft.gpt2.gpt_config import GPTConfig
from sft.gpt2.model import GPT
from sft.training.best import Best
from sft.training.metrics import Metrics
from sft.training.metrics_file import MetricsFile
from sft.training.mfu import product_rate, step_operations

CONFIG = GPTConfig(n_layer=2, n_head=2, n_embd=16, vocab_size=40, n_positions=8)


def test_the_operations_of_a_step_are_those_that_torch_counts() -> None:
    model = GPT(CONFIG)
    ids = torch.zeros(3, 8, dtype=torch.long)
    with FlopCounterMode(display=False) as counted:
        model(ids).sum().backward()
    found = step_operations(CONFIG, tokens=24, targets=24, length=0, frozen=False)

    # Without attention's own products, which torch counts in full and we by half.
    attention = 0
    for name, count in counted.get_flop_counts()["Global"].items():
        if "attention" in str(name) or "bmm" in str(name):
            attention += count
    assert found == counted.get_total_flops() - attention


def test_an_adapter_spares_the_gradient_of_the_matrices() -> None:
    whole = step_operations(CONFIG, 24, 4, 8.0, frozen=False)
    assert step_operations(CONFIG, 24, 4, 8.0, frozen=True) == whole * 2 / 3
    # Each of 24 tokens attends to 4 others on average, in 2 layers of width 16, twice.
    longer = whole - step_operations(CONFIG, 24, 4, 0.0, frozen=False)
    assert longer == 3 * 2 * 24 * 2 * (2 * 16 * 4)


def test_a_step_above_the_rate_has_the_rate_measured_again(monkeypatch, tmp_path) -> None:
    rates = iter([150.0, 90.0])
    monkeypatch.setattr(Metrics, "_measured_rate", lambda *_: next(rates))
    monkeypatch.setattr(Metrics, "_operations", lambda *_: 100.0)
    metrics = Metrics(EvalConfig(), MetricsFile(tmp_path / "metrics.csv"), Best(EvalConfig()))
    metrics.rate = 60.0
    given = (None, None, None)
    assert metrics._mfu(*given, seconds=2.0) == 50 / 60
    assert metrics._mfu(*given, seconds=1.0) == 100 / 150
    # A rate that was measured beside busy processes does not replace a better one.
    assert metrics._mfu(*given, seconds=0.5) == 200 / 150
    assert metrics.rate == 150


def test_the_rate_of_a_product_is_measured() -> None:
    assert product_rate(CONFIG, "cpu", torch.float32) > 1e6
