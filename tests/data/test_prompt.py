"""The templates' exact text, and what a template may and may not do."""

import pytest

from sft.config import PROMPTS, InputError
from sft.data.prompt import render
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
