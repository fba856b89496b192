"""A conversation through every door: trained on, evaluated, chatted, served, in transformers."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import openai
import pytest
import torch
import transformers

import evaluate
from sft import launch
from sft.chat import Chat
from sft.gpt2.generate import generate
from sft.gpt2.sampling import Sampling
from sft.inference.models import Placement, load_tuned
from sft.prompts import PROMPTS
from sft.serving.engine import Engine
from tests.conftest import ROOT
from tests.serving.running import running

WORDS = ["bird", "fish", "tree", "meal", "chef", "day", "task", "code"]
TOKENS = 12
ASKED = ("bird?", "more")


def talk(number: int) -> list[dict[str, str]]:
    """Return a conversation in which the second answer needs the first question."""
    word = WORDS[number % len(WORDS)]
    return [
        {"role": "user", "content": f"{word}?"},
        {"role": "assistant", "content": f"{word}s"},
        {"role": "user", "content": "more"},
        {"role": "assistant", "content": f"{word} {word}"},
    ]


@pytest.fixture
def run(command: Callable[..., None], checkpoint: Path, tmp_path: Path) -> Path:
    """A run of train.py on conversations of two turns, by its command."""
    records = [{"messages": talk(number)} for number in range(24)]
    (tmp_path / "talk.json").write_text(json.dumps(records))
    command(
        "data=file",
        "data.path=talk.json",
        "data.prompt=chatml",
        "data.mask_prompt=true",
        "data.split=[0.6,0.3,0.1]",
        f"model.checkpoint={checkpoint}",
        "model.allow_untrained=true",
        "epochs=30",
        "optim.lr=0.02",
        "eval.every=0",
        "eval.sample=false",
        "logger=none",
        "device=cpu",
        "precision=32",
        "hydra.run.dir=run",
    )
    return tmp_path / "run"


def test_each_program_gives_the_same_second_answer(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = load_tuned(str(run), Placement("cpu", "32-true"))
    assert tuned.takes_earlier_turns
    assert tuned.template == PROMPTS["chatml"]

    def answer(question: str, earlier: list[tuple[str, str]]) -> tuple[list[int], str]:
        prompt = tuned.prompt(question, earlier=earlier)
        [tokens] = generate(tuned.model, [prompt], TOKENS, eos_id=tuned.tokenizer.eot_token)
        return tokens, tuned.tokenizer.decode(tokens)

    # The chat's first answer is part of its second question.
    _, first = answer(ASKED[0], [])
    earlier = [("user", ASKED[0]), ("assistant", first)]
    tokens, second = answer(ASKED[1], earlier)
    assert tokens != answer(ASKED[1], [])[0]
    messages = [
        {"role": "user", "content": ASKED[0]},
        {"role": "assistant", "content": first},
        {"role": "user", "content": ASKED[1]},
    ]

    # The chat.
    chat = Chat(tuned, Placement("cpu", "32-true"), Sampling(), max_new_tokens=TOKENS)
    assert ["".join(chat.answer(question)) for question in ASKED] == [first, second]

    # The server, asked by OpenAI's client.
    engine = Engine(tuned, 2, 4)
    with running({"tuned": engine}) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        with client:
            said = client.chat.completions.create(
                model="tuned", messages=messages, max_tokens=TOKENS
            )
    engine.stop()
    assert said.choices[0].message.content == second
    assert said.usage.prompt_tokens == len(tuned.prompt(ASKED[1], earlier=earlier))

    # transformers.
    tokenizer = transformers.AutoTokenizer.from_pretrained(run / "model")
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    assert prompt[0].tolist() == tuned.prompt(ASKED[1], earlier=earlier)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(run / "model", dtype=torch.float32)
    whole = theirs.generate(prompt, do_sample=False, max_new_tokens=TOKENS)
    answered = whole[0, prompt.shape[1] :].tolist()
    assert answered[: len(tokens)] == tokens
    assert answered[len(tokens) :] in ([], [tuned.tokenizer.eot_token])

    # Evaluation asks the last question of each test record, with the turns before it.
    arguments = ["run=run", f"generate.max_new_tokens={TOKENS}", "device=cpu", "precision=32"]
    config = ["--config-path", str(ROOT / "conf")]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *config, *arguments])
    launch.run(evaluate.main)
    rows = json.loads((run / "evaluation" / "responses.json").read_text())
    assert len(rows) == 7
    for row in rows:
        before = [(turn["role"], turn["content"]) for turn in row["before"]]
        assert [role for role, _ in before] == ["user", "assistant"]
        assert row["model_response"] == answer(row["instruction"], before)[1]
