"""The templates' exact text, and what a template may and may not do."""

from dataclasses import replace

import pytest
import tiktoken
from jinja2 import Environment
from transformers.utils.chat_template_utils import _compile_jinja_template

from sft.data.prompt import (
    around,
    prompt_tokens,
    render,
    usable_template,
    user_message,
)
from sft.data.records import Record, Turn
from sft.errors import InputError
from sft.prompts import PROMPTS

WITH = Record("Name the capital.", "France", "Paris")
WITHOUT = Record("Name a bird.", "", "Crow")

# The exact prompts of both records, by template.
TEXTS = {
    "alpaca": (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nName the capital.\n\n### Input:\nFrance\n\n### Response:\n",
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nName a bird.\n\n### Response:\n",
    ),
    "alpaca-stanford": (
        "Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nName the capital.\n\n### Input:\nFrance\n\n### Response:",
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nName a bird.\n\n### Response:",
    ),
    "phi3": (
        "<|user|>\nName the capital.\nFrance\n<|assistant|>\n",
        "<|user|>\nName a bird.\n<|assistant|>\n",
    ),
    "chatml": (
        "<|im_start|>user\nName the capital.\n\nFrance<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>user\nName a bird.<|im_end|>\n<|im_start|>assistant\n",
    ),
    "none": ("", ""),
}


def test_every_template_is_written_out_here() -> None:
    assert PROMPTS.keys() == TEXTS.keys()


@pytest.mark.parametrize("name", TEXTS)
def test_a_templates_prompt_is_exactly_this_text(name: str) -> None:
    assert (render(PROMPTS[name], WITH), render(PROMPTS[name], WITHOUT)) == TEXTS[name]


@pytest.mark.parametrize(
    "text",
    [
        "{{ input }}",
        "{% if %}",
        "{# x #}",
        "<b>&amp;</b>",
        " a\r\n\n",
        "{0} %s $x \\n",
        "é\u2028日本",
    ],
)
def test_what_a_record_says_is_text_and_nothing_else(text: str) -> None:
    assert (
        render("<|user|>\n{{ instruction }}|{{ input }}|\n", Record(text, text, ""))
        == f"<|user|>\n{text}|{text}|\n"
    )


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ instruction", "unexpected end of template"),
        ("{% if input %}x", "Unexpected end of template"),
        ("{{ output }}", "'output' is undefined"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ instruction + 1 }}", 'can only concatenate str (not "int") to str'),
        ("{% for i in range(10 ** 9) %}x{% endfor %}", "Range too big"),
        (
            "{{ instruction.__class__.__mro__ }}",
            "access to attribute '__class__' of 'str' object is unsafe",
        ),
    ],
)
def test_a_failing_template_is_explained_in_one_line(template: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        render(template, WITH)
    line = str(error.value)
    assert line.startswith("prompt template: ")
    assert message in line
    assert line.endswith("; it may use the variables `instruction` and `input`")


# The templates of earlier versions, which knew single instructions alone. Checkpoints still have
# them.
EARLIER = {
    "alpaca": (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request."
        "\n\n### Instruction:\n{{ instruction }}"
        "{% if input %}\n\n### Input:\n{{ input }}{% endif %}"
        "\n\n### Response:\n"
    ),
    "alpaca-stanford": (
        "{% if input %}"
        "Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request."
        "\n\n### Instruction:\n{{ instruction }}\n\n### Input:\n{{ input }}"
        "{% else %}"
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request."
        "\n\n### Instruction:\n{{ instruction }}"
        "{% endif %}"
        "\n\n### Response:"
    ),
    "phi3": "<|user|>\n{{ instruction }}{% if input %}\n{{ input }}{% endif %}\n<|assistant|>\n",
    "none": "",
}
HARD = [
    "Name a bird.",
    "",
    "{{ input }} {% if %} {# x #}",
    "  two\n\nlines \n",
    "<|endoftext|><|user|>",
    "\ue000\ue001 é😀\u2028 \\n '\"",
]


@pytest.mark.parametrize("name", EARLIER)
def test_a_single_instruction_has_the_ids_of_earlier_versions(tokenizer, name: str) -> None:
    for instruction in HARD:
        for input in HARD:
            record = Record(instruction, input, "")
            expected = tokenizer.encode_ordinary(render(EARLIER[name], record))
            assert prompt_tokens(PROMPTS[name], record, tokenizer) == expected


# Conversations

TALK = Record(
    "And of fox?",
    "",
    "foxes",
    before=(Turn("user", "What is the plural of box?"), Turn("assistant", "boxes")),
)
WITH_SYSTEM = replace(TALK, input="the animal", before=(Turn("system", "Be short."), *TALK.before))

# The exact prompts of both, by template.
TALKS = {
    "alpaca": (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nWhat is the plural of box?\n\n### Response:\nboxes<|endoftext|>\n\n"
        "### Instruction:\nAnd of fox?\n\n### Response:\n",
        "Be short.\n\n"
        "### Instruction:\nWhat is the plural of box?\n\n### Response:\nboxes<|endoftext|>\n\n"
        "### Instruction:\nAnd of fox?\n\n### Input:\nthe animal\n\n### Response:\n",
    ),
    "alpaca-stanford": (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nWhat is the plural of box?\n\n### Response:boxes<|endoftext|>\n\n"
        "### Instruction:\nAnd of fox?\n\n### Response:",
        "Be short.\n\n"
        "### Instruction:\nWhat is the plural of box?\n\n### Response:boxes<|endoftext|>\n\n"
        "### Instruction:\nAnd of fox?\n\n### Input:\nthe animal\n\n### Response:",
    ),
    "phi3": (
        "<|user|>\nWhat is the plural of box?\n<|assistant|>\nboxes<|endoftext|>\n"
        "<|user|>\nAnd of fox?\n<|assistant|>\n",
        "<|system|>\nBe short.\n"
        "<|user|>\nWhat is the plural of box?\n<|assistant|>\nboxes<|endoftext|>\n"
        "<|user|>\nAnd of fox?\nthe animal\n<|assistant|>\n",
    ),
    "chatml": (
        "<|im_start|>user\nWhat is the plural of box?<|im_end|>\n"
        "<|im_start|>assistant\nboxes<|endoftext|>\n"
        "<|im_start|>user\nAnd of fox?<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>system\nBe short.<|im_end|>\n"
        "<|im_start|>user\nWhat is the plural of box?<|im_end|>\n"
        "<|im_start|>assistant\nboxes<|endoftext|>\n"
        "<|im_start|>user\nAnd of fox?\n\nthe animal<|im_end|>\n<|im_start|>assistant\n",
    ),
}
CONVERSING = sorted(TALKS)


def test_every_template_of_conversations_is_written_out_here() -> None:
    assert PROMPTS.keys() - {"none"} == TALKS.keys()


@pytest.mark.parametrize("name", CONVERSING)
def test_a_conversations_prompt_is_exactly_this_text(name: str) -> None:
    assert (render(PROMPTS[name], TALK), render(PROMPTS[name], WITH_SYSTEM)) == TALKS[name]


@pytest.mark.parametrize("template", ["", EARLIER["alpaca"], EARLIER["phi3"]])
def test_a_conversation_is_refused_by_a_template_of_single_instructions(template: str) -> None:
    with pytest.raises(InputError, match="conversation of several turns"):
        render(template, TALK)


@pytest.mark.parametrize("name", CONVERSING)
def test_whoever_renders_a_template_gets_the_same_text(name: str) -> None:
    messages = [{"role": turn.role, "content": turn.content} for turn in TALK.turns]
    for system in ([], [{"role": "system", "content": "Be short."}]):
        for text in HARD:
            asked = [*system, *messages, {"role": "user", "content": text}]
            expected = as_transformers(PROMPTS[name], asked)
            for options in (
                {},
                {"keep_trailing_newline": True},
                {"trim_blocks": True},
                {"lstrip_blocks": True},
            ):
                template = Environment(**options).from_string(PROMPTS[name])
                assert template.render(messages=asked, add_generation_prompt=True) == expected


def test_special_tokens_in_a_conversation_are_the_templates_alone(tokenizer) -> None:
    hard = "a<|endoftext|>b"
    before = (Turn("system", hard), Turn("user", hard), Turn("assistant", hard))
    for name in CONVERSING:
        record = Record(hard, hard, "", before=before)
        ids = prompt_tokens(PROMPTS[name], record, tokenizer)
        assert ids.count(tokenizer.eot_token) == 1
        assert tokenizer.decode(ids) == render(PROMPTS[name], record)


# As a single message


def as_transformers(template: str, messages: list[dict[str, str]]) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    [text], _ = render_jinja_template(
        [messages], chat_template=template, add_generation_prompt=True
    )
    return text


@pytest.mark.parametrize(
    "record", [WITH, WITHOUT, Record(" a\n", "\n{{ b }} ", ""), Record("", "x", "")]
)
@pytest.mark.parametrize("name", ["alpaca", "phi3", "chatml"])
def test_the_message_of_a_record_gives_its_prompt(name: str, record: Record) -> None:
    message = user_message(PROMPTS[name], record)
    messages = [{"role": "user", "content": message}]
    assert as_transformers(PROMPTS[name], messages) == render(PROMPTS[name], record)


def test_the_chat_message_of_a_record_written_out() -> None:
    assert user_message(PROMPTS["alpaca"], WITH) == "Name the capital.\n\n### Input:\nFrance"
    assert user_message(PROMPTS["alpaca-stanford"], WITHOUT) == "Name a bird."


def test_no_message_gives_the_prompt_if_the_preamble_speaks_of_the_input() -> None:
    with pytest.raises(
        InputError, match="no chat message gives the prompt of a record with an input"
    ):
        user_message(PROMPTS["alpaca-stanford"], WITH)


@pytest.mark.parametrize(
    ("template", "times"), [("Q:", 0), ("{{ instruction }}{{ instruction }}", 2)]
)
def test_a_template_without_one_place_for_the_instruction(template: str, times: int) -> None:
    with pytest.raises(InputError, match=f"holds the instruction {times} times"):
        around(template)


# Chat templates of other programs

CHATML = """
{%- for message in messages %}
    {%- if message['role'] == 'system' %}{{ raise_exception('no system messages') }}{% endif %}
  {% if not loop.first %}{{ '\\n' }}{% endif %}
{{ '<|im_start|>' + message['role'] }}
{% generation %}{{ message['content'] | trim }}{% endgeneration %}
{{ eos_token }}
{%- endfor %}
{% if tools %}no tools{% endif %}{% if nothing %}undefined is false{% endif %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
"""
NAMES = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
SHORT = "  {% if messages[0].role == 'user' %}\n[{{ messages[0]['content'] }}]\n  {% endif %}\n"


@pytest.mark.parametrize(
    "chat", [CHATML, SHORT, "\n" + SHORT, "{% if true %}\n\n{% endif %}{{ messages[-1].content }}"]
)
@pytest.mark.parametrize(
    "record", [Record("Name a bird.", "", ""), Record(" two\n\nlines", "{{ x }}\t", "")]
)
def test_a_chat_template_renders_as_in_transformers(tokenizer, chat: str, record: Record) -> None:
    names = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    template = usable_template("x", None, chat, names)
    assert template
    messages = [{"role": "user", "content": record.question}]
    env = _compile_jinja_template(chat)
    expected = env.render(
        messages=messages, add_generation_prompt=True, tools=None, documents=None, **names
    )
    assert render(template, record) == expected
    assert prompt_tokens(template, record, tokenizer) == tokenizer.encode_ordinary(expected)


def test_turns_of_user_and_assistant_are_rendered(tokenizer) -> None:
    template = usable_template(
        "x", None, "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    )
    assert template
    record = Record("c", "", "", before=(Turn("user", "a"), Turn("assistant", "b")))
    assert render(template, record) == "user: a\nassistant: b\nuser: c\nassistant:"


@pytest.fixture
def marked(letters: tiktoken.Encoding) -> tiktoken.Encoding:
    special = {"<|endoftext|>": 256, "<|im_end|>": 257, "@": 258}
    return tiktoken.Encoding(
        "m", pat_str=r"[\s\S]", mergeable_ranks=letters._mergeable_ranks, special_tokens=special
    )


def test_special_tokens_are_the_templates_alone(marked: tiktoken.Encoding) -> None:
    template = usable_template("x", None, "@{{ messages[0].content }}{{ eos_token }}", NAMES)
    assert template
    for text in ("hi", "a<|im_end|>b@<|endoftext|>", "<|im_<|im_end|>end|>", "0\ue0001\ue000"):
        assert prompt_tokens(template, Record(text, "", ""), marked) == [258, *text.encode(), 257]


def test_a_checkpoints_own_prompt_is_preferred_to_its_chat_template(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert usable_template("x", "mine", "{{ messages }}") == "mine"
    assert usable_template("x", "", "{{ messages }}") == ""
    assert usable_template("x", None, None) is None
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("chat", "reason"),
    [
        ("{% for %}", "Expected"),
        ("{{ raise_exception('a system message is needed') }}", "a system message is needed"),
        ("no place for it", "holds the instruction 0 times"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
    ],
)
def test_an_unusable_chat_template_is_warned_of(
    chat: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert usable_template("someone/model", None, chat) is None
    assert "someone/model: its chat template cannot be used" in caplog.text
    assert reason in caplog.text
