"""llama.cpp runs exported models: `make test-gguf`. It compiles for minutes."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import llama_cpp
import pytest
import tiktoken
import torch
from llama_cpp import Llama

from sft.checkpoint.folder import load_pretrained, save_pretrained
from sft.data.prompt import render
from sft.data.records import Record, stream_records
from sft.export import export_gguf
from sft.gpt2.generate import generate
from sft.gpt2.model import GPT, GPTConfig
from sft.gpt2.tokenizer import load_tokenizer
from sft.inference.models import Placement, load_tuned
from sft.miniature.build import ASSETS
from sft.prompts import PROMPTS

ROOT = Path(__file__).parents[2]
HARD = [
    "",
    " ",
    "  two  spaces ",
    "\n\n\tx\r\n",
    "don't we'll I'M",
    "1234 12,345.6",
    "naïve café 日本語 😀",
    "<|endoftext|>",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of train.py: the miniature, after a few steps."""
    folder = tmp_path_factory.mktemp("run")
    settings = ["max_steps=60", "eval.every=0", "hydra.run.dir=run"]
    subprocess.run(
        [sys.executable, ROOT / "train.py", *settings], cwd=folder, check=True, capture_output=True
    )
    return folder / "run"


def llama(path: Path, monkeypatch: pytest.MonkeyPatch, **options) -> Llama:
    """Load a file in llama.cpp, without the matrix units of some CPUs.

    On some virtual machines it crashes on them, with its own q8_0 files too.
    """
    params = llama_cpp.llama_model_default_params()
    params.use_extra_bufts = False
    monkeypatch.setattr(llama_cpp.llama_cpp, "llama_model_default_params", lambda: params)
    return Llama(str(path), n_ctx=256, n_threads=1, logits_all=True, verbose=False, **options)


def same_ids(runs: Llama, tokenizer: tiktoken.Encoding, texts: list[str]) -> None:
    for text in texts:
        assert runs.tokenize(
            text.encode(), add_bos=False, special=False
        ) == tokenizer.encode_ordinary(text), text


def answer(runs: Llama, prompt: list[int], count: int) -> list[int]:
    """The likeliest tokens after a prompt, up to the end token."""
    tokens = []
    for token in runs.generate(prompt, temp=0.0, repeat_penalty=1.0):
        if token == runs.token_eos() or len(tokens) == count:
            break
        tokens.append(token)
    return tokens


@pytest.mark.parametrize("dtype", ["f32", "f16", "q8_0"])
def test_llama_gives_the_same_tokens(
    run: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, [name, _] = export_gguf(run / "model", dtype, None)
    runs, ours = llama(folder / name, monkeypatch), load_pretrained(run / "model")
    with (ASSETS / "nano.json").open("rb") as file:
        records = list(stream_records(file, "nano.json"))
    same_ids(runs, ours.tokenizer, [*HARD, *(record.instruction for record in records[:200])])
    assert runs.token_eos() == ours.tokenizer.eot_token
    prompts = [
        ours.tokenizer.encode_ordinary(render(ours.prompt, record)) for record in records[1581:1601]
    ]
    answers = generate(ours.model, prompts, 60, eos_id=ours.tokenizer.eot_token)
    found = [answer(runs, prompt, 60) for prompt in prompts]
    alike = sum(theirs == mine for theirs, mine in zip(found, answers, strict=True))
    assert len(set(map(tuple, answers))) > 15
    assert alike == 20 if dtype != "q8_0" else alike >= 15


def test_llama_chat_uses_the_models_template(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, [name, _] = export_gguf(run / "model", "f16", None)
    runs, ours = llama(folder / name, monkeypatch), load_pretrained(run / "model")
    question = "Work out the difference. 15 - 12"
    said = runs.create_chat_completion(
        [{"role": "user", "content": question}], temperature=0, repeat_penalty=1.0
    )
    prompt = ours.tokenizer.encode_ordinary(render(ours.prompt, Record(question, "", "")))
    [mine] = generate(ours.model, [prompt], 100, eos_id=ours.tokenizer.eot_token)
    assert said["choices"][0]["message"]["content"] == ours.tokenizer.decode(mine)
    assert said["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("template", [name for name in PROMPTS if name != "none"])
def test_llama_holds_a_conversation(
    run: Path, template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = load_pretrained(run / "model")
    save_pretrained(
        trained.model,
        tmp_path / "model",
        trained.tokenizer,
        PROMPTS[template],
        chat_template=PROMPTS[template],
        conversations=True,
    )
    folder, [name, _] = export_gguf(tmp_path / "model", "f16", None)
    runs = llama(folder / name, monkeypatch)
    ours = load_tuned(str(tmp_path / "model"), Placement("cpu", "32-true"))

    # The chat and the server show their models the same prompt (tests/test_conversation.py).
    messages: list[dict[str, str]] = []
    for question in ("What is the plural of box?", "And of fox?", "Spell it."):
        earlier = [(message["role"], message["content"]) for message in messages]
        prompt = ours.prompt(question, earlier=earlier)
        [tokens] = generate(ours.model, [prompt], 60, eos_id=ours.tokenizer.eot_token)
        assert answer(runs, prompt, 60) == tokens

        messages.append({"role": "user", "content": question})
        said = runs.create_chat_completion(
            messages, temperature=0, repeat_penalty=1.0, max_tokens=60
        )
        assert said["usage"]["prompt_tokens"] == len(prompt)
        mine = ours.tokenizer.decode(tokens)
        assert said["choices"][0]["message"]["content"] == mine
        messages.append({"role": "assistant", "content": mine})


def test_llama_runs_a_model_with_a_head_of_its_own(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = load_pretrained(run / "model")
    untied = GPT(dataclasses.replace(trained.model.config, tie_word_embeddings=False))
    untied.load_state_dict(trained.model.state_dict(), strict=False)
    with torch.no_grad():
        # Another order of the tokens, so that an answer by the embedding would differ.
        untied.lm_head.weight.copy_(trained.model.wte.weight.roll(7, 0))
    save_pretrained(untied, tmp_path / "model", trained.tokenizer, trained.prompt)
    folder, [name, _] = export_gguf(tmp_path / "model", "f16", None)
    runs = llama(folder / name, monkeypatch)
    prompts = [
        trained.tokenizer.encode_ordinary(render(trained.prompt, Record(question, "", "")))
        for question in ("Name a bird.", "What is the plural of box?", "Spell it.")
    ]
    answers = generate(untied, prompts, 30, eos_id=trained.tokenizer.eot_token)
    assert [answer(runs, prompt, 30) for prompt in prompts] == answers
    assert answers != generate(trained.model, prompts, 30, eos_id=trained.tokenizer.eot_token)


def test_llama_logits_agree(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, [name, _] = export_gguf(run / "model", "f32", None)
    runs, ours = llama(folder / name, monkeypatch), load_pretrained(run / "model")
    tokens = ours.tokenizer.encode_ordinary(
        "How many eggs are in 9 dozen? There are 108 eggs in 9 dozen."
    )
    runs.eval(tokens)
    with torch.no_grad():
        expected = ours.model(torch.tensor([tokens]))[0]
    torch.testing.assert_close(
        torch.tensor(runs.scores[: len(tokens)]), expected, atol=1e-2, rtol=0
    )


@pytest.mark.skipif(
    "SFT_DATA_DIR" not in os.environ, reason="set SFT_DATA_DIR to a folder with GPT-2's own files"
)
def test_llama_tokenizes_as_gpt2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Path(os.environ["SFT_DATA_DIR"])
    tokenizer = load_tokenizer(data / "gpt2-vocab")
    tiny = GPT(
        GPTConfig(n_layer=1, n_head=1, n_embd=32, vocab_size=tokenizer.n_vocab + 47, n_positions=64)
    )
    save_pretrained(tiny, tmp_path / "tiny", tokenizer)
    folder, [name, _] = export_gguf(tmp_path / "tiny", "f16", None)
    records = json.loads((data / "instruction-data.json").read_text())
    texts = [text for record in records for text in record.values() if text]
    same_ids(llama(folder / name, monkeypatch), tokenizer, HARD + texts)
