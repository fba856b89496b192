"""Programs of other authors ask the server: `make test-clients`."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import litellm
import pytest

from sft.inference.models import Placement, load_tuned
from sft.miniature.build import ASSETS
from sft.serving.engine import Engine
from tests.serving.running import running

QUESTION = [{"role": "user", "content": "What is the plural of box?"}]
MODEL = ASSETS / "gpt2-nano"

# A task of lm-eval: which of two words goes on, and how likely a text is.
CHOICE = """
task: plurals
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{[right, wrong]}}}}"
doc_to_target: 0
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
ROLLING = """
task: perplexities
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: bits_per_byte}}, {{metric: word_perplexity}}]
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    engine = Engine(load_tuned("gpt2-nano", Placement("cpu", "32-true")), 16, 64)
    with running({"tuned": engine}) as found:
        yield found
    engine.stop()


def test_litellm_asks_chats_and_plain_text(url: str) -> None:
    options = {"api_base": f"{url}/v1", "api_key": "none"}
    chat = litellm.completion("openai/tuned", QUESTION, max_tokens=32, **options)
    text = chat.choices[0].message.content
    parts = litellm.completion("openai/tuned", QUESTION, max_tokens=32, stream=True, **options)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == text != ""
    later = litellm.acompletion("openai/tuned", QUESTION, max_tokens=32, **options)
    assert asyncio.run(later).choices[0].message.content == text
    plain = litellm.text_completion(
        prompt="The plural of box is",
        model="text-completion-openai/tuned",
        max_tokens=4,
        **options,
    )
    assert plain.choices[0].text


def test_curl_asks(url: str) -> None:
    body = json.dumps({"model": "tuned", "prompt": "The plural of", "max_tokens": 4})
    command = ["curl", "-sS", f"{url}/v1/completions", "-d", body]
    found = subprocess.run(command, capture_output=True, check=True)
    assert json.loads(found.stdout)["usage"]["completion_tokens"] <= 4


def test_lm_eval_gets_the_numbers_of_transformers(url: str, tmp_path: Path) -> None:
    records = json.loads((ASSETS / "nano.json").read_text(encoding="utf-8"))[:40]
    rows = [
        {
            "question": record["instruction"],
            "right": " " + record["output"],
            "wrong": " " + records[index - 1]["output"],
            "text": f"{record['instruction']} {record['output']}",
        }
        for index, record in enumerate(records)
    ]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows))
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for name, text in (("plurals", CHOICE), ("perplexities", ROLLING)):
        (tasks / f"{name}.yaml").write_text(text.format(file=file))

    def run(kind: str, model: str) -> dict[str, dict[str, float]]:
        arguments = ["--model", kind, "--model_args", model, "--tasks", "plurals,perplexities"]
        out = tmp_path / kind
        places = ["--include_path", str(tasks), "--output_path", str(out), "--device", "cpu"]
        command = [sys.executable, "-m", "lm_eval", *arguments, *places, "--batch_size", "4"]
        env = {**os.environ, "OPENAI_API_KEY": "none", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=900)
        assert done.returncode == 0, done.stderr[-3000:]
        [result] = out.rglob("results_*.json")
        found = json.loads(result.read_text())["results"]
        assert found.keys() == {"plurals", "perplexities"}
        return {
            task: {name: value for name, value in values.items() if isinstance(value, float)}
            for task, values in found.items()
        }

    expected = run("hf", f"pretrained={MODEL},dtype=float32,max_length=255")
    address = f"model=tuned,base_url={url}/v1/completions,tokenizer={MODEL},max_length=256"
    found = run("local-completions", f"{address},tokenizer_backend=huggingface,num_concurrent=2")
    assert expected["plurals"]["acc,none"] > 0.5
    for task, values in expected.items():
        assert found[task] == pytest.approx(values, rel=1e-4)
