"""The template of a run: the one that is named, or the checkpoint's own, or Alpaca's."""

import pytest

from sft.data.prompt import pick_template
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
    assert pick_template(named, own, "gpt2-nano")[0] == picked


def test_another_template_than_the_checkpoints_is_warned_of() -> None:
    assert pick_template("phi3", EARLIER, "gpt2-nano")[1] is None
    note = pick_template("alpaca", EARLIER, "gpt2-nano")[1]
    assert note is not None
    assert "data.prompt: alpaca" in note
    assert "gpt2-nano" in note
