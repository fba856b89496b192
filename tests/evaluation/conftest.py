"""Tiny checkpoints, a data file, a run folder as train.py leaves it, and a made-up report."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import torch

from sft.checkpoint.folder import Pretrained, load_pretrained, save_pretrained
from sft.config.schema import DataConfig, EvalConfig, ModelConfig, OptimConfig, TrainConfig
from sft.gpt2.model import GPT, GPTConfig
from tests.judge.judge_server import Site, serving
from tests.summaries import CONTENT

TEMPLATE = "Q: {{ instruction }} {{ input }}\nA: "


@pytest.fixture(autouse=True)
def little_memory_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare each evaluation in this process the time in which memory's rate is measured well."""
    monkeypatch.setattr("sft.evaluation.mbu.READ_BYTES", 1 << 20)


@pytest.fixture
def make_checkpoint(tokenizer: tiktoken.Encoding) -> Callable[..., Path]:
    """Write a random model. Its weights are large, so that its answers differ from each other."""

    def make(folder: Path, seed: int, vocab_size: int = tokenizer.n_vocab, **texts: Any) -> Path:
        torch.manual_seed(seed)
        config = GPTConfig(
            n_layer=2,
            n_head=2,
            n_embd=16,
            vocab_size=vocab_size,
            n_positions=64,
            initializer_range=0.3,
        )
        save_pretrained(GPT(config), folder, tokenizer, **texts)
        return folder

    return make


@pytest.fixture
def pretrained(tmp_path: Path, make_checkpoint: Callable[..., Path]) -> Pretrained:
    return load_pretrained(make_checkpoint(tmp_path / "checkpoint", seed=3))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """20 records in two categories."""
    path = tmp_path / "data.json"
    records = [
        {
            "instruction": f"Add {n} and 1.",
            "input": "",
            "output": f"{n + 1}",
            "category": "odd" if n % 2 else "even",
        }
        for n in range(20)
    ]
    path.write_text(json.dumps(records))
    return path


@pytest.fixture
def run_folder(tmp_path: Path, data: Path, make_checkpoint: Callable[..., Path]) -> Path:
    """A finished run on `data`, of which records 8 to 17 are for the test."""
    base, run = make_checkpoint(tmp_path / "base", seed=1), tmp_path / "run"
    make_checkpoint(run / "model", seed=2, prompt=TEMPLATE, base=str(base))
    choices = DataConfig("json", str(data), split=[0.4, 0.5, 0.1])
    summary = CONTENT | {
        "seed": 123,
        "losses": {},
        "data": CONTENT["data"]
        | {"path": str(data), "sha256": hashlib.sha256(data.read_bytes()).hexdigest()},
        "checkpoint": {
            "source": str(base),
            "revision": None,
            "sha256": load_pretrained(base).sha256,
        },
        "config": dataclasses.asdict(
            TrainConfig(ModelConfig(str(base)), choices, OptimConfig(), EvalConfig())
        ),
    }
    (run / "summary.json").write_text(json.dumps(summary))
    return run


@pytest.fixture
def ollama() -> Iterator[Site]:
    """An Ollama server with llama3."""
    with serving(Site()) as site:
        yield site
