"""The templates' exact text, and what a template may and may not do."""

import pytest
import tiktoken
from jinja2 import Environment
from transformers.utils.chat_template_utils import _compile_jinja_template

from sft.data.prompt import (
    around,
    chat_template,
    message_of,
    prompt_tokens,
    render,
    render_chat,
    template_of,
    user_message,
)
from sft.data.records import Record
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


# As a chat

# Blanks that trim_blocks and lstrip_blocks would remove, and other things in templates.
HARD = {
    "tags on lines of their own": "A\n  {% if input %}\n  {{ input }}\n  {% endif %}\n"
    "  {{ instruction }}\n",
    "white space alone": "\n {% if true %} \n\n {% endif %} \n{{ instruction }}\n\n",
    "signs": "A \n{%- if true -%} \n B {{- instruction -}} \n C{%+ endif +%} \n"
    "{#- no -#} D {{--1}}\n",
    "comments": "A\n{# one #}\n  {# two #}{% if true %}B{% endif %}{# three #}\n"
    "{{ instruction }}{# four #}\n",
    "raw": "{% raw %}\n {{ instruction }} \\n '\"{% endraw %}\n"
    "{{ instruction }}{% raw %}{% if %}\n{% endraw %}",
    "other line ends": "A\r\n{% if true %}\r\n{{ instruction }}\r\n{% endif %}\r\n",
    "a set": "{% set who = 'me' %}\n{{ who }}: {{ instruction }}\n{% set x = 1 %}\n",
}
MESSAGES = [
    "Name a bird.",
    "{{ input }} {% if %} {# x #}",
    "  two\n\nlines \n",
    "<|endoftext|><|user|>",
    "é😀\u2028",
]


def as_transformers(template: str, messages: list[dict[str, str]]) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    [text], _ = render_jinja_template(
        [messages], chat_template=template, add_generation_prompt=True
    )
    return text


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("template", [*PROMPTS.values(), *HARD.values()], ids=[*PROMPTS, *HARD])
def test_the_chat_template_gives_the_prompt_whoever_renders_it(template: str, message: str) -> None:
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "An earlier question."},
        {"role": "assistant", "content": "An answer."},
        {"role": "user", "content": message},
    ]
    chat, expected = chat_template(template), render(template, Record(message, "", ""))
    assert as_transformers(chat, messages) == expected
    for options in (
        {},
        {"keep_trailing_newline": True},
        {"trim_blocks": True},
        {"lstrip_blocks": True},
    ):
        assert Environment(**options).from_string(chat).render(messages=messages) == expected


def test_a_chat_template_written_out() -> None:
    start = (
        "{% set instruction = "
        "(messages | selectattr('role', 'equalto', 'user') | list | last)['content'] %}"
    )
    assert chat_template(PROMPTS["phi3"]) == (
        start + "{% set input = '' %}<|user|>\n{{ instruction }}{% if input %}"
        '{{ "\\n" }}{{ input }}{% endif %}{{ "\\n" }}<|assistant|>{{ "\\n" }}'
    )


def test_a_template_that_is_not_jinja_has_no_chat_template() -> None:
    with pytest.raises(InputError, match="prompt template: unexpected"):
        chat_template("{{ instruction ! }}")


@pytest.mark.parametrize(
    "record", [WITH, WITHOUT, Record(" a\n", "\n{{ b }} ", ""), Record("", "x", "")]
)
@pytest.mark.parametrize("name", ["alpaca", "phi3"])
def test_the_message_of_a_record_gives_its_prompt(name: str, record: Record) -> None:
    message = user_message(PROMPTS[name], record)
    messages = [{"role": "user", "content": message}]
    assert as_transformers(chat_template(PROMPTS[name]), messages) == render(PROMPTS[name], record)


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
    template = template_of("x", None, chat, names)
    assert template
    messages = [{"role": "user", "content": message_of(record)}]
    env = _compile_jinja_template(chat)
    expected = env.render(
        messages=messages, add_generation_prompt=True, tools=None, documents=None, **names
    )
    assert render(template, record) == expected
    assert prompt_tokens(template, record, tokenizer) == tokenizer.encode_ordinary(expected)


def test_turns_of_user_and_assistant_are_rendered(tokenizer) -> None:
    template = template_of(
        "x", None, "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    )
    assert template
    turns = [("user", "a"), ("assistant", "b"), ("user", "c")]
    assert render_chat(template, turns) == "user: a\nassistant: b\nuser: c\nassistant:"


@pytest.fixture
def marked(letters: tiktoken.Encoding) -> tiktoken.Encoding:
    special = {"<|endoftext|>": 256, "<|im_end|>": 257, "@": 258}
    return tiktoken.Encoding(
        "m", pat_str=r"[\s\S]", mergeable_ranks=letters._mergeable_ranks, special_tokens=special
    )


def test_special_tokens_are_the_templates_alone(marked: tiktoken.Encoding) -> None:
    template = template_of("x", None, "@{{ messages[0].content }}{{ eos_token }}", NAMES)
    assert template
    for text in ("hi", "a<|im_end|>b@<|endoftext|>", "<|im_<|im_end|>end|>", "0\ue0001\ue000"):
        assert prompt_tokens(template, Record(text, "", ""), marked) == [258, *text.encode(), 257]


def test_a_checkpoints_own_prompt_is_preferred_to_its_chat_template(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert template_of("x", "mine", "{{ messages }}") == "mine"
    assert template_of("x", "", "{{ messages }}") == ""
    assert template_of("x", None, None) is None
    assert caplog.text == ""


def test_an_end_token_other_than_gpt2s_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert template_of("someone/model", None, "{{ messages[0].content }}", NAMES)
    assert "someone/model: its turns end with '<|im_end|>'" in caplog.text


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
    assert template_of("someone/model", None, chat) is None
    assert "someone/model: its chat template cannot be used" in caplog.text
    assert reason in caplog.text
