"""Decoding on a device that is not the CPU: the same tokens, and no tensor is left behind."""

import torch

from sft.gpt2.generate import Decoder
from sft.gpt2.gpt_config import GPTConfig
from sft.gpt2.model import GPT
from sft.gpt2.sampling import Sampling
from tests.fixtures.other_device import DEVICE, other_device

CONFIG = GPTConfig(n_layer=2, n_head=2, n_embd=32, vocab_size=97, n_positions=32)
SAMPLINGS = [
    Sampling(logprobs=2),
    Sampling(temperature=0.7, top_k=20, top_p=0.9, min_p=0.01),
    Sampling(repetition_penalty=1.2, no_repeat_ngram=2, frequency_penalty=0.5),
]


def decoded(model: GPT) -> list[tuple[int, int]]:
    """The tokens of three rows; one leaves after three steps, and another comes."""
    decoder = Decoder(model.eval(), slots=3, size=20)
    rows = [
        decoder.add(range(3 * row, 3 * row + 5 + row), seed=row, sampling=sampling)
        for row, sampling in enumerate(SAMPLINGS)
    ]
    tokens = []
    for step in range(8):
        if step == 3:
            decoder.remove(rows[0])
            decoder.add([1, 2, 3])
        tokens += decoder.step()
    return tokens


def test_answers_elsewhere_are_those_of_the_cpu() -> None:
    torch.manual_seed(0)
    model = GPT(CONFIG)
    here = decoded(model)
    with other_device():
        assert decoded(model.to(DEVICE)) == here
