"""The templates' exact text, and what a template may and may not do."""

import pytest
from jinja2 import Environment

from sft.config import PROMPTS, InputError
from sft.data.prompt import around, chat_template, render, user_message
from sft.data.records import Record

WITH = Record("Name the capital.", "France", "Paris")
WITHOUT = Record("Name a bird.", "", "Crow")

TEXTS = {
    "alpaca": (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nName the capital.\n\n### Input:\nFrance\n\n### Response:\n",
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nName a bird.\n\n### Response:\n",
    ),
    "alpaca-stanford": (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request.\n\n"
        "### Instruction:\nName the capital.\n\n### Input:\nFrance\n\n### Response:",
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nName a bird.\n\n### Response:",
    ),
    "phi3": ("<|user|>\nName the capital.\nFrance\n<|assistant|>\n", "<|user|>\nName a bird.\n<|assistant|>\n"),
    "none": ("", ""),
}


def test_every_template_is_written_out_here() -> None:
    assert PROMPTS.keys() == TEXTS.keys()


@pytest.mark.parametrize("name", TEXTS)
def test_the_exact_text(name: str) -> None:
    assert (render(PROMPTS[name], WITH), render(PROMPTS[name], WITHOUT)) == TEXTS[name]


@pytest.mark.parametrize(
    "text", ["{{ input }}", "{% if %}", "{# x #}", "<b>&amp;</b>", " a\r\n\n", "{0} %s $x \\n", "é\u2028日本"]
)
def test_what_a_record_says_is_text_and_nothing_else(text: str) -> None:
    assert render("<|user|>\n{{ instruction }}|{{ input }}|\n", Record(text, text, "")) == f"<|user|>\n{text}|{text}|\n"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ instruction", "unexpected end of template"),
        ("{% if input %}x", "Unexpected end of template"),
        ("{{ output }}", "'output' is undefined"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ instruction + 1 }}", 'can only concatenate str (not "int") to str'),
        ("{% for i in range(10 ** 9) %}x{% endfor %}", "Range too big"),
        ("{{ instruction.__class__.__mro__ }}", "access to attribute '__class__' of 'str' object is unsafe"),
    ],
)
def test_a_template_that_fails(template: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        render(template, WITH)
    line = str(error.value)
    assert line.startswith("prompt template: ")
    assert message in line
    assert line.endswith("; it may use the variables `instruction` and `input`")


# As a chat

HARD = {  # white space that trim_blocks and lstrip_blocks would take, and what a template may hold else
    "tags on lines of their own": "A\n  {% if input %}\n  {{ input }}\n  {% endif %}\n  {{ instruction }}\n",
    "white space alone": "\n {% if true %} \n\n {% endif %} \n{{ instruction }}\n\n",
    "signs": "A \n{%- if true -%} \n B {{- instruction -}} \n C{%+ endif +%} \n{#- no -#} D {{--1}}\n",
    "comments": "A\n{# one #}\n  {# two #}{% if true %}B{% endif %}{# three #}\n{{ instruction }}{# four #}\n",
    "raw": "{% raw %}\n {{ instruction }} \\n '\"{% endraw %}\n{{ instruction }}{% raw %}{% if %}\n{% endraw %}",
    "other line ends": "A\r\n{% if true %}\r\n{{ instruction }}\r\n{% endif %}\r\n",
    "a set": "{% set who = 'me' %}\n{{ who }}: {{ instruction }}\n{% set x = 1 %}\n",
}
MESSAGES = ["Name a bird.", "{{ input }} {% if %} {# x #}", "  two\n\nlines \n", "<|endoftext|><|user|>", "é😀\u2028"]


def as_transformers(template: str, messages: list[dict[str, str]]) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    [text], _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=True)
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
    for options in ({}, {"keep_trailing_newline": True}, {"trim_blocks": True}, {"lstrip_blocks": True}):
        assert Environment(**options).from_string(chat).render(messages=messages) == expected


def test_a_chat_template_written_out() -> None:
    start = "{% set instruction = (messages | selectattr('role', 'equalto', 'user') | list | last)['content'] %}"
    assert chat_template(PROMPTS["phi3"]) == (
        start + "{% set input = '' %}<|user|>\n{{ instruction }}{% if input %}"
        '{{ "\\n" }}{{ input }}{% endif %}{{ "\\n" }}<|assistant|>{{ "\\n" }}'
    )


def test_a_chat_template_of_what_is_no_template() -> None:
    with pytest.raises(InputError, match="prompt template: unexpected"):
        chat_template("{{ instruction ! }}")


@pytest.mark.parametrize("record", [WITH, WITHOUT, Record(" a\n", "\n{{ b }} ", ""), Record("", "x", "")])
@pytest.mark.parametrize("name", ["alpaca", "phi3"])
def test_the_message_of_a_record_gives_its_prompt(name: str, record: Record) -> None:
    message = user_message(PROMPTS[name], record)
    messages = [{"role": "user", "content": message}]
    assert as_transformers(chat_template(PROMPTS[name]), messages) == render(PROMPTS[name], record)


def test_the_message_itself() -> None:
    assert user_message(PROMPTS["alpaca"], WITH) == "Name the capital.\n\n### Input:\nFrance"
    assert user_message(PROMPTS["alpaca-stanford"], WITHOUT) == "Name a bird."


def test_no_message_gives_the_prompt_if_the_preamble_speaks_of_the_input() -> None:
    with pytest.raises(InputError, match="no chat message gives the prompt of a record with an input"):
        user_message(PROMPTS["alpaca-stanford"], WITH)


@pytest.mark.parametrize(("template", "times"), [("Q:", 0), ("{{ instruction }}{{ instruction }}", 2)])
def test_a_template_without_one_place_for_the_instruction(template: str, times: int) -> None:
    with pytest.raises(InputError, match=f"holds the instruction {times} times"):
        around(template)
