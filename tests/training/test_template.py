"""The template of a run: the one that is named, or the checkpoint's own, or Alpaca's."""

import logging
from dataclasses import replace

import pytest

from sft.checkpoint.folder import Pretrained, load_pretrained
from sft.config.schema import DataConfig
from sft.prompts import PROMPTS
from sft.training.run import pick_template

# What earlier versions wrote for phi3.
EARLIER = "<|user|>\n{{ instruction }}{% if input %}\n{{ input }}{% endif %}\n<|assistant|>\n"


@pytest.fixture(scope="module")
def plain() -> Pretrained:
    return load_pretrained("gpt2-nano", device="meta")


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
def test_the_template_of_a_run(
    plain: Pretrained, own: str | None, named: str | None, picked: str
) -> None:
    assert pick_template(DataConfig(prompt=named), replace(plain, prompt=own)) == picked


def test_another_template_than_the_checkpoints_is_warned_of(
    plain: Pretrained, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    pick_template(DataConfig(prompt="phi3"), replace(plain, prompt=EARLIER))
    assert caplog.messages == []
    pick_template(DataConfig(prompt="alpaca"), replace(plain, prompt=EARLIER))
    [message] = caplog.messages
    assert "data.prompt: alpaca" in message
    assert "gpt2-nano" in message
