"""The loss of the sanity check, which is also that of the first probe if answers are learned."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sft.config.schema import DpoConfig, EvalConfig
from sft.gpt2.gpt_config import GPTConfig
from sft.gpt2.model import GPT
from sft.objective import CrossEntropy, Objective, Preference
from sft.training.best import Best
from sft.training.metrics import Metrics
from sft.training.metrics_file import MetricsFile
from sft.training.sanity import SanityGate

MODEL = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=4, vocab_size=8, n_positions=4))
AT_GATE = 1.25
MEASURED = 2.5


@pytest.mark.parametrize(
    ("objective", "mask_prompt", "step", "expected"),
    [
        (CrossEntropy(MODEL), True, 0, AT_GATE),
        (CrossEntropy(MODEL), False, 0, MEASURED),
        (CrossEntropy(MODEL), True, 5, MEASURED),
        (Preference(MODEL, DpoConfig()), True, 0, MEASURED),
    ],
)
def test_the_first_probe_takes_the_loss_of_the_gate_if_it_is_the_same(
    tmp_path: Path, objective: Objective, mask_prompt: bool, step: int, expected: float
) -> None:
    gate = SanityGate(batches=5, allow_untrained=False)
    gate.loss = AT_GATE
    config = EvalConfig()
    metrics = Metrics(config, MetricsFile(tmp_path / "metrics.csv"), Best(config), gate=gate)
    module: Any = SimpleNamespace(
        objective=objective,
        mean_loss=lambda batches: MEASURED,
        signals=SimpleNamespace(interrupted=False),
    )
    examples = SimpleNamespace(mask_prompt=mask_prompt)
    data: Any = SimpleNamespace(
        splits={"train": SimpleNamespace(examples=examples)},
        first_batches=lambda split, count: [],
        has_validation=False,
    )
    metrics.row = {"step": step}
    metrics._probe(module, data)
    assert metrics.row == {"step": step, "train/eval_loss": expected}
