"""From a checked request to a prompt for the engine."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sft.checkpoint.folder import load_pretrained
from sft.data.prompt import usable_template
from sft.inference.models import ChatModel
from sft.prompts import PROMPTS
from sft.serving.api import ChatRequest, parse_chat
from sft.serving.endpoints import chat_prompt
from sft.serving.fields import ApiError
from sft.serving.sending import make_generation

CHAT_TEMPLATE = """{% for message in messages %}
{{ message['role'] }}: {{ message['content'] }}
{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"""


@pytest.fixture
def foreign(checkpoint: Path) -> ChatModel:
    """A model with a chat template of its own."""
    template = usable_template("foreign", None, CHAT_TEMPLATE)
    assert template
    return ChatModel(load_pretrained(checkpoint), template, takes_earlier_turns=True)


def request_of(*contents: str | None) -> ChatRequest:
    """Return a request with three turns."""
    roles = ("user", "assistant", "user")
    messages = [
        {"role": role, "content": content} for role, content in zip(roles, contents, strict=True)
    ]
    body = json.dumps({"model": "tuned", "messages": messages}).encode()
    return parse_chat(body, limit=10)


def prompt_text(chat_model: ChatModel, request: ChatRequest) -> str:
    return chat_model.tokenizer.decode(chat_prompt(request, chat_model))


def test_a_model_with_a_chat_template_sees_the_earlier_turns(foreign: ChatModel) -> None:
    text = prompt_text(foreign, request_of("a", "b", "c"))
    assert text == "user: a\nassistant: b\nuser: c\nassistant:"


def test_an_earlier_turn_without_text_is_refused(foreign: ChatModel) -> None:
    with pytest.raises(ApiError) as error:
        prompt_text(foreign, request_of("a", None, "c"))
    assert (error.value.param, error.value.code) == ("messages[1].content", "invalid_type")


def test_a_model_of_single_instructions_sees_the_last_message_alone(tiny: ChatModel) -> None:
    assert prompt_text(tiny, request_of("a", None, "c")) == "c"


def test_the_rest_of_the_context_limits_the_answer(tiny: ChatModel, engine) -> None:
    one = engine(tiny)
    for length, most in ((120, 8), (100, 10)):
        request = request_of("a", "b", "!" * length)
        prompt = chat_prompt(request, tiny)
        generation = make_generation(request, one, prompt, 0, lambda _: None)
        assert generation.answer.max_tokens == most


def test_an_answer_ends_at_its_checkpoints_own_end_tokens(tiny: ChatModel, engine) -> None:
    tiny.checkpoint.ends = ("<|im_end|>",)
    request = request_of("a", "b", "c")
    generation = make_generation(request, engine(tiny), [1], 0, lambda _: None)
    assert generation.answer.stop == ["<|im_end|>"]


def chat(model: str, *messages: tuple[str, str | None]) -> ChatRequest:
    content = [{"role": role, "content": text} for role, text in messages]
    return parse_chat(json.dumps({"model": model, "messages": content}).encode(), limit=10)


def test_a_conversation_is_shown_whole_with_its_system_message(tiny: ChatModel) -> None:
    told = replace(tiny, template=PROMPTS["phi3"], takes_earlier_turns=True)
    request = chat("m", ("developer", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"))
    assert prompt_text(told, request) == (
        "<|system|>\ns\n<|user|>\na\n<|assistant|>\nb<|endoftext|>\n<|user|>\nc\n<|assistant|>\n"
    )


def test_a_system_message_is_refused_where_the_model_cannot_be_shown_it(tiny: ChatModel) -> None:
    told = replace(tiny, template=PROMPTS["chatml"], takes_earlier_turns=True)
    late = chat("m", ("user", "a"), ("system", "s"), ("user", "c"))
    for model, request, place in (
        (tiny, chat("m", ("system", "s"), ("user", "c")), 0),
        (told, late, 1),
    ):
        with pytest.raises(ApiError) as error:
            chat_prompt(request, model)
        assert (error.value.param, error.value.code) == (
            f"messages[{place}].role",
            "invalid_value",
        )
    for nothing in ("", None):
        assert prompt_text(tiny, chat("m", ("system", nothing), ("user", "c"))) == "c"


def test_a_conversation_that_is_too_long_is_refused_or_trimmed(tiny: ChatModel) -> None:
    told = replace(tiny, template=PROMPTS["phi3"], takes_earlier_turns=True)
    turns = [("system", "s")]
    for letter in "abc":
        turns += [("user", letter * 30), ("assistant", letter)]
    request = chat("m", *turns, ("user", "d"))
    with pytest.raises(ApiError) as error:
        chat_prompt(request, told)
    assert error.value.code == "context_length_exceeded"
    text = tiny.tokenizer.decode(chat_prompt(request, told, trim=True))
    assert text.startswith("<|system|>\ns\n<|user|>\nc")
    with pytest.raises(ApiError):
        chat_prompt(chat("m", ("user", "d" * 200)), told, trim=True)
