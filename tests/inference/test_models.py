"""Which models are asked, and in which words."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sft.checkpoint.folder import load_pretrained, save_pretrained
from sft.errors import InputError
from sft.inference.models import Place, TooLongError, Voice, load_base, load_tuned
from sft.prompts import PROMPTS
from sft.serving.api import ApiError, parse
from sft.serving.endpoints import make_request

PLACE = Place("cpu", "32-true")


@pytest.fixture
def run(tmp_path: Path, checkpoint: Path) -> Path:
    """A run on the tiny checkpoint, whose weights it changed."""
    tiny = load_pretrained(checkpoint)
    tiny.model.ln_f.bias.data += 0.1
    save_pretrained(
        tiny.model,
        tmp_path / "run" / "model",
        tiny.tokenizer,
        "Q: {{ instruction }}",
        str(checkpoint),
    )
    return tmp_path / "run"


def test_a_run_is_asked_in_its_own_template_and_so_is_its_base(run: Path, checkpoint: Path) -> None:
    tuned = load_tuned(str(run), PLACE)
    assert tuned.checkpoint.source == str(run / "model")
    assert tuned.prompt("Hi.") == tuned.tokenizer.encode_ordinary("Q: Hi.")
    base = load_base(tuned, PLACE)
    assert base.prompt("Hi.") == tuned.prompt("Hi.")
    assert base.checkpoint.source == str(checkpoint)
    assert not torch.equal(base.model.ln_f.bias, tuned.model.ln_f.bias)
    assert not base.model.training


def test_latest_is_the_run_that_it_names_now(run: Path) -> None:
    (run.parent / "latest").symlink_to(run)
    assert load_tuned(str(run.parent / "latest"), PLACE).checkpoint.source == str(run / "model")


def test_the_base_comes_at_the_commit_that_the_run_began_with(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = load_tuned(str(run), PLACE)
    asked = []
    monkeypatch.setattr(
        Place, "load", lambda _, *names: asked.append(names) or load_pretrained("gpt2-nano")
    )
    for began, revision in (
        ({"source": tuned.checkpoint.base, "revision": "abc"}, "abc"),
        ({"source": "x", "revision": "abc"}, None),
    ):
        (run / "summary.json").write_text(json.dumps({"checkpoint": began}))
        load_base(tuned, PLACE)
        assert asked.pop() == (tuned.checkpoint.base, revision)
    (run / "summary.json").unlink()
    load_base(tuned, PLACE)
    assert asked.pop() == (tuned.checkpoint.base, None)


def test_without_a_template_it_is_asked_in_alpacas(caplog: pytest.LogCaptureFixture) -> None:
    assert load_tuned("gpt2-nano", PLACE).template == PROMPTS["alpaca"]
    assert caplog.messages == [
        "warning: gpt2-nano names no prompt template; it is asked in alpaca's"
    ]


def test_the_precision_is_the_weights_own(run: Path) -> None:
    assert load_tuned(str(run), Place("cpu", "bf16-mixed")).model.wte.weight.dtype == torch.bfloat16


def test_refused(run: Path, tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        InputError, match=r"empty: no config.json, vocab.json, .* expected a checkpoint"
    ):
        load_tuned(str(tmp_path / "empty"), PLACE)
    with pytest.raises(InputError, match="outputs/nothing: not there; train first"):
        load_tuned("outputs/nothing", PLACE)
    tiny = load_pretrained(checkpoint)
    save_pretrained(tiny.model, tmp_path / "plain", tiny.tokenizer, "", str(checkpoint))
    with pytest.raises(InputError, match="trained on plain text, without a template"):
        load_tuned(str(tmp_path / "plain"), PLACE)
    with pytest.raises(InputError, match="has the same weights"):
        load_base(Voice(load_pretrained(tmp_path / "plain"), "x"), PLACE)
    with pytest.raises(InputError, match="gpt2-nano does not name its base"):
        load_base(Voice(load_pretrained("gpt2-nano"), "x"), PLACE)


def test_a_question_that_fills_the_context(run: Path) -> None:
    tuned = load_tuned(str(run), PLACE)
    fits = "!" * (128 - 1 - len(tuned.prompt("")))
    assert len(tuned.prompt(fits)) == 127
    with pytest.raises(
        TooLongError, match="128 tokens leave no room in the model's context of 128"
    ):
        tuned.prompt(fits + "!")


# Chat templates of other programs

CHAT = """{% for message in messages %}
{{ bos_token }}{{ message['role'] }}: {{ message['content'] }}
{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"""


@pytest.fixture
def foreign(run: Path, tmp_path: Path) -> Path:
    """A model as transformers 5 saves it, with a chat template and without a template of ours."""
    AutoModelForCausalLM.from_pretrained(run / "model").save_pretrained(tmp_path / "foreign")
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(tmp_path / "foreign")
    told = json.loads((tmp_path / "foreign" / "tokenizer_config.json").read_text())
    del told["sft_prompt"]
    (tmp_path / "foreign" / "tokenizer_config.json").write_text(json.dumps(told))
    return tmp_path / "foreign"


def test_a_model_of_another_program_is_asked_in_its_chat_template(
    foreign: Path, caplog: pytest.LogCaptureFixture
) -> None:
    voice, theirs = load_tuned(str(foreign), PLACE), AutoTokenizer.from_pretrained(foreign)
    messages = [{"role": "user", "content": "Hi there.\n\nbox"}]
    expected = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)[
        "input_ids"
    ]
    assert voice.prompt("Hi there.", "box") == expected
    assert voice.tokenizer.eot_token in expected
    assert caplog.messages == []
    assert voice.prompt("<|endoftext|>").count(voice.tokenizer.eot_token) == 1


def test_the_server_shows_such_a_model_the_earlier_turns(foreign: Path, run: Path) -> None:
    def asked(voice: Voice, *contents: object) -> list[int]:
        roles = ("user", "assistant", "user")
        messages = [
            {"role": role, "content": text} for role, text in zip(roles, contents, strict=True)
        ]
        body = json.dumps({"model": "tuned", "messages": messages}).encode()
        return make_request(parse(body, limit=10), voice, lambda _: None).prompt

    voice, theirs = load_tuned(str(foreign), PLACE), AutoTokenizer.from_pretrained(foreign)
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    expected = theirs.apply_chat_template(turns, add_generation_prompt=True, tokenize=True)[
        "input_ids"
    ]
    assert asked(voice, "a", "b", "c") == expected
    with pytest.raises(ApiError, match=r"messages\[1\].content: found null, expected text"):
        asked(voice, "a", None, "c")

    ours = load_tuned(str(run), PLACE)
    assert asked(ours, "a", None, "c") == ours.prompt("c")


def test_a_chat_template_that_fails_is_said_and_alpacas_taken(
    foreign: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (foreign / "chat_template.jinja").write_text("{{ raise_exception('only with tools') }}")
    assert load_tuned(str(foreign), PLACE).template == PROMPTS["alpaca"]
    assert (
        "its chat template cannot be used for a single question (chat template: only with tools)"
        in caplog.text
    )
