"""A made-up summary of a run, for tests of what reads it."""

from typing import Any

from sft.dataclass_json import from_json
from sft.summaries import RunSummary

CONTENT: dict[str, Any] = {
    "status": "finished",
    "steps": 1346,
    "epochs": 2.0,
    "tokens_seen": 142532,
    "seconds": 22.4,
    "tokens_per_sec": 6363.0,
    "losses": {
        "train/eval_loss": {"first": 2.4711, "last": 0.0444},
        "val/loss": {"first": 2.2, "last": None},
    },
    "peak_memory_bytes": 2**30,
    "answer_loss_before": 2.5,
    "best_validation_loss": 0.0803,
    "device": "cpu",
    "precision": "bf16-mixed",
    "data": {
        "path": "/home/me/secret/mine.json",
        "sha256": "ab" * 32,
        "splits": {
            "train": {"records": 935},
            "test": {"records": 110},
            "validation": {"records": 55},
        },
        "revision": None,
    },
    "checkpoint": {
        "source": "openai-community/gpt2",
        "revision": "607a30d7",
        "sha256": "cd" * 32,
    },
    "seed": 123,
    "versions": {"torch": "2.13.0", "sft": "0.1.0"},
    "config": {
        "data": {"source": "json", "prompt": "alpaca", "mask_prompt": True},
        "optim": {"lr": 5e-5, "schedule": "constant", "weight_decay": 0.1},
        "batch_size": 8,
        "accumulate": 4,
        "devices": 2,
    },
}


def run_summary(**changes: Any) -> RunSummary:
    """Return a summary of which some keys are changed."""
    return from_json(RunSummary, CONTENT | changes)
