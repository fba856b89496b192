"""The README's recipe on the embedded model, in full, and all its held-out records."""

import json
import math
from pathlib import Path

import pytest

import evaluate
import train
from sft.config.loading import from_dict
from sft.config.schema import DataConfig, EvaluateConfig, GenerateConfig, TrainConfig
from sft.data.sources import load_source

CONFIG = {
    "model": {"checkpoint": "gpt2-nano"},
    "data": {"mask_prompt": True},
    "optim": {"lr": 1e-4},
    "eval": {"every": 50, "sample": False},
    "device": "cpu",
}


def test_tuned_nano_answers_and_the_base_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    train.fit(from_dict(TrainConfig, CONFIG), run, changed="")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["answer_loss_before"] <= 0.5 * math.log(4096)

    config = EvaluateConfig(
        DataConfig(), GenerateConfig(max_new_tokens=64), run=str(run), device="cpu"
    )
    evaluate.evaluate(config, [])
    measured = json.loads((run / "evaluation" / "summary.json").read_text())
    assert measured["records"] == 186
    assert measured["tuned"]["exact_match"] >= 0.6
    assert measured["tuned"]["exact_match"] >= measured["base"]["exact_match"] + 0.4
    responses = json.loads((run / "evaluation" / "responses.json").read_text())
    expected = load_source(DataConfig()).records[1581:1767]
    assert [row["output"] for row in responses] == [record.output for record in expected]
