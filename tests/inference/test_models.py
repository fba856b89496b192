"""The models that are loaded, and the prompts that they are asked with."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sft.checkpoint.folder import load_pretrained, save_pretrained
from sft.errors import InputError
from sft.inference.models import (
    ChatModel,
    Placement,
    TooLongError,
    load_base,
    load_tuned,
    share_weights,
)
from sft.prompts import PROMPTS

PLACEMENT = Placement("cpu", "32-true")


@pytest.fixture
def run(tmp_path: Path, checkpoint: Path) -> Path:
    """A run on the tiny checkpoint, whose weights it changed."""
    tiny = load_pretrained(checkpoint)
    tiny.model.ln_f.bias.data += 0.1
    model = tmp_path / "run" / "model"
    save_pretrained(tiny.model, model, tiny.tokenizer, "Q: {{ instruction }}", str(checkpoint))
    return tmp_path / "run"


def test_a_run_and_its_base_are_asked_in_the_runs_template(run: Path, checkpoint: Path) -> None:
    tuned = load_tuned(str(run), PLACEMENT)
    assert tuned.checkpoint.source == str(run / "model")
    assert tuned.prompt("Hi.") == tuned.tokenizer.encode_ordinary("Q: Hi.")
    base = load_base(tuned, PLACEMENT)
    assert base.prompt("Hi.") == tuned.prompt("Hi.")
    assert base.checkpoint.source == str(checkpoint)
    assert not torch.equal(base.model.ln_f.bias, tuned.model.ln_f.bias)
    assert not base.model.training


def test_latest_is_the_run_that_the_link_names(run: Path) -> None:
    (run.parent / "latest").symlink_to(run)
    tuned = load_tuned(str(run.parent / "latest"), PLACEMENT)
    assert tuned.checkpoint.source == str(run / "model")


# What is loaded, and what is refused


def test_a_model_without_a_template_is_asked_in_alpacas(caplog: pytest.LogCaptureFixture) -> None:
    assert load_tuned("gpt2-nano", PLACEMENT).template == PROMPTS["alpaca"]
    [message] = caplog.messages
    assert "gpt2-nano" in message
    assert "alpaca" in message


def test_the_weights_are_kept_in_the_precision_of_the_placement(run: Path) -> None:
    tuned = load_tuned(str(run), Placement("cpu", "bf16-mixed"))
    assert tuned.model.wte.weight.dtype == torch.bfloat16


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: no config\.json"):
        load_tuned(str(tmp_path / "empty"), PLACEMENT)
    with pytest.raises(InputError, match="outputs/nothing: not there"):
        load_tuned("outputs/nothing", PLACEMENT)


def test_a_model_trained_on_plain_text_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    tiny = load_pretrained(checkpoint)
    save_pretrained(tiny.model, tmp_path / "plain", tiny.tokenizer, "", str(checkpoint))
    with pytest.raises(InputError, match="plain: trained on plain text"):
        load_tuned(str(tmp_path / "plain"), PLACEMENT)


def test_a_base_with_the_same_weights_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    tiny = load_pretrained(checkpoint)
    save_pretrained(tiny.model, tmp_path / "same", tiny.tokenizer, "x", str(checkpoint))
    with pytest.raises(InputError, match="same weights"):
        load_base(ChatModel(load_pretrained(tmp_path / "same"), "x"), PLACEMENT)


def test_a_model_that_names_no_base_has_none() -> None:
    with pytest.raises(InputError, match="gpt2-nano does not name its base"):
        load_base(ChatModel(load_pretrained("gpt2-nano"), "x"), PLACEMENT)


def test_a_prompt_that_fills_the_context_is_refused(run: Path) -> None:
    tuned = load_tuned(str(run), PLACEMENT)
    fits = "!" * (128 - 1 - len(tuned.prompt("")))
    assert len(tuned.prompt(fits)) == 127
    with pytest.raises(TooLongError, match=r"128 tokens .* context of 128"):
        tuned.prompt(fits + "!")


def test_a_template_that_makes_an_empty_prompt_is_refused(checkpoint: Path) -> None:
    silent = ChatModel(load_pretrained(checkpoint), "{{ input }}")
    with pytest.raises(InputError, match="empty"):
        silent.prompt("Hi.")


# Chat templates of other programs

CHAT_TEMPLATE = """{% for message in messages %}
{{ bos_token }}{{ message['role'] }}: {{ message['content'] }}
{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"""


@pytest.fixture
def foreign(run: Path, tmp_path: Path) -> Path:
    """A model as transformers 5 saves it, with a chat template and without a template of ours."""
    folder = tmp_path / "foreign"
    AutoModelForCausalLM.from_pretrained(run / "model").save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["sft_prompt"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def transformers_prompt(folder: Path, *turns: tuple[str, str]) -> list[int]:
    messages = [{"role": role, "content": content} for role, content in turns]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)
    return list(found["input_ids"])


def test_a_model_of_another_program_is_asked_in_its_chat_template(
    foreign: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chat_model = load_tuned(str(foreign), PLACEMENT)
    expected = transformers_prompt(foreign, ("user", "Hi there.\n\nbox"))
    assert chat_model.prompt("Hi there.", "box") == expected
    assert caplog.messages == []


def test_a_chat_template_shows_earlier_turns(foreign: Path) -> None:
    chat_model = load_tuned(str(foreign), PLACEMENT)
    assert chat_model.takes_earlier_turns
    earlier = [("user", "a"), ("assistant", "b")]
    expected = transformers_prompt(foreign, *earlier, ("user", "c"))
    assert chat_model.prompt("c", earlier=earlier) == expected


def test_a_question_cannot_imitate_the_end_token_of_a_chat_template(foreign: Path) -> None:
    chat_model = load_tuned(str(foreign), PLACEMENT)
    prompt = chat_model.prompt("<|endoftext|>")
    assert prompt.count(chat_model.tokenizer.eot_token) == 1


def test_a_chat_template_that_fails_is_warned_of_and_alpacas_used(
    foreign: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (foreign / "chat_template.jinja").write_text("{{ raise_exception('only with tools') }}")
    assert load_tuned(str(foreign), PLACEMENT).template == PROMPTS["alpaca"]
    assert "only with tools" in caplog.text


def test_equal_weights_take_memory_once(checkpoint: Path) -> None:
    first = load_pretrained(checkpoint).model
    second = load_pretrained(checkpoint).model
    with torch.no_grad():
        second.h[1].attn.c_attn.weight.add_(1)
        changed = second.h[1].attn.c_attn.weight.clone()
    whole = sum(parameter.numel() for parameter in second.parameters())
    assert share_weights(second, [first]) == 1 - changed.numel() / whole
    assert second.wte.weight.data_ptr() == first.wte.weight.data_ptr()
    assert torch.equal(second.h[1].attn.c_attn.weight, changed)
    assert not torch.equal(first.h[1].attn.c_attn.weight, changed)
