"""From a checked request to a prompt for the engine."""

import json
from pathlib import Path

import pytest

from sft.checkpoint.folder import load_pretrained
from sft.data.prompt import template_of
from sft.inference.models import ChatModel
from sft.serving.api import ApiError, ChatRequest, parse_request
from sft.serving.endpoints import make_generation

CHAT_TEMPLATE = """{% for message in messages %}
{{ message['role'] }}: {{ message['content'] }}
{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"""


@pytest.fixture
def foreign(checkpoint: Path) -> ChatModel:
    """A model with a chat template of its own."""
    template = template_of("foreign", None, CHAT_TEMPLATE)
    assert template
    return ChatModel(load_pretrained(checkpoint), template, takes_earlier_turns=True)


def request_of(*contents: str | None) -> ChatRequest:
    """Return a request with three turns."""
    roles = ("user", "assistant", "user")
    messages = [
        {"role": role, "content": content} for role, content in zip(roles, contents, strict=True)
    ]
    body = json.dumps({"model": "tuned", "messages": messages}).encode()
    return parse_request(body, limit=10)


def prompt_text(chat_model: ChatModel, request: ChatRequest) -> str:
    generation = make_generation(request, chat_model, lambda _: None)
    return chat_model.tokenizer.decode(generation.prompt)


def test_a_model_with_a_chat_template_sees_the_earlier_turns(foreign: ChatModel) -> None:
    text = prompt_text(foreign, request_of("a", "b", "c"))
    assert text == "user: a\nassistant: b\nuser: c\nassistant:"


def test_an_earlier_turn_without_text_is_refused(foreign: ChatModel) -> None:
    with pytest.raises(ApiError) as error:
        prompt_text(foreign, request_of("a", None, "c"))
    assert (error.value.param, error.value.code) == ("messages[1].content", "invalid_type")


def test_a_model_of_single_instructions_sees_the_last_message_alone(tiny: ChatModel) -> None:
    assert prompt_text(tiny, request_of("a", None, "c")) == "c"


def test_the_rest_of_the_context_limits_the_answer(tiny: ChatModel) -> None:
    request = request_of("a", "b", "!" * 120)
    assert make_generation(request, tiny, lambda _: None).answer.max_tokens == 128 - 120
    request = request_of("a", "b", "!" * 100)
    assert make_generation(request, tiny, lambda _: None).answer.max_tokens == request.max_tokens
