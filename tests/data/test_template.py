"""The template of a run: the one that is named, or the checkpoint's own, or Alpaca's."""

import logging

import pytest

from sft.data.prompt import log_template, pick_template
from sft.prompts import PROMPTS

# What earlier versions wrote for phi3.
EARLIER = "<|user|>\n{{ instruction }}{% if input %}\n{{ input }}{% endif %}\n<|assistant|>\n"


@pytest.mark.parametrize(
    ("own", "named", "picked"),
    [
        (None, None, PROMPTS["alpaca"]),
        (None, "chatml", PROMPTS["chatml"]),
        (PROMPTS["phi3"], None, PROMPTS["phi3"]),
        (EARLIER, None, PROMPTS["phi3"]),
        ("Q: {{ instruction }}", None, "Q: {{ instruction }}"),
        (PROMPTS["phi3"], "alpaca", PROMPTS["alpaca"]),
        (PROMPTS["phi3"], "none", ""),
    ],
)
def test_the_template_of_a_run(own: str | None, named: str | None, picked: str) -> None:
    assert pick_template(named, own) == picked


def test_another_template_than_the_checkpoints_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    log_template(PROMPTS["phi3"], EARLIER, "gpt2-nano")
    log_template("Q: {{ instruction }}", "Q: {{ instruction }}", "gpt2-nano")
    log_template(PROMPTS["alpaca"], None, "gpt2-nano")
    assert caplog.messages == []
    log_template(PROMPTS["alpaca"], EARLIER, "gpt2-nano")
    [message] = caplog.messages
    assert "data.prompt: alpaca" in message
    assert "gpt2-nano" in message
