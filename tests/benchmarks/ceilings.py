"""What a machine allows: the seconds of a step's products, of AdamW, and of reading the weights.

Each is measured in the round whose speeds are compared with it.
"""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from sft.config.schema import OptimConfig
from sft.device import keep_freed_memory
from sft.evaluation.mbu import memory_rate
from sft.gpt2.fast import Frozen, Packed, can_pack
from sft.gpt2.model import GPT, GPTConfig
from sft.training.optim import adamw

# A tensor that no processor's cache holds.
READ_BYTES = 768 << 20


class Bound(NamedTuple):
    """The seconds of what a training step cannot do without."""

    products: float
    update: float


def training_bound(shape: GPTConfig, tokens: int, device: str, low: bool) -> Bound:
    """Measure the matrix products of a training step, and AdamW's update."""
    # Memory is handled as in training.
    keep_freed_memory()
    dtype = torch.bfloat16 if low else torch.float32

    # For each linear layer: inputs, the gradient of outputs, and the weight.
    work = []
    for width_in, width_out in matrices(shape):
        x = torch.randn(tokens, width_in).to(device, dtype)
        y = torch.randn(tokens, width_out).to(device, dtype)
        weight = torch.randn(width_out, width_in).to(device, dtype)
        work.append((x, y, weight))

    def products() -> None:
        for x, y, weight in work:
            # The outputs, and the gradients of the inputs and of the weight.
            linear(x, weight)
            y @ weight
            y.t() @ x

    model = GPT(shape).to(device)
    optimizer = adamw(model, OptimConfig())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    return Bound(seconds(products, device), seconds(optimizer.step, device))


class AnsweringBound(NamedTuple):
    """What a step of decoding cannot do without.

    Attributes:
        reading: the seconds in which memory gives the weights.
        products: the seconds of the products, by the rows that are answered together.
    """

    reading: float
    products: dict[int, float]

    def rate(self, rows: int) -> float:
        """Return the most tokens per second."""
        return rows / max(self.reading, self.products[rows])


def answering_bound(
    shape: GPTConfig, rows: tuple[int, ...], device: str, low: bool
) -> AnsweringBound:
    """Measure a step that decodes a token of each row."""
    dtype = torch.bfloat16 if low else torch.float32
    weights = [torch.randn(out, inner).to(device, dtype) for inner, out in matrices(shape)]
    forms: list[Tensor | Frozen] = [Packed(one) if can_pack(one) else one for one in weights]

    def products(count: int) -> float:
        inputs = {one.shape[1]: torch.randn(count, one.shape[1]).to(weights[0]) for one in weights}

        def work() -> None:
            for weight, form in zip(weights, forms, strict=True):
                x = inputs[weight.shape[1]]
                linear(x, form) if isinstance(form, Tensor) else form(x)

        with torch.no_grad():
            return seconds(work, device)

    size = sum(one.numel() * one.element_size() for one in weights)
    reading = size / memory_rate(device, READ_BYTES, tries=7)
    return AnsweringBound(reading, {count: products(count) for count in rows})


def matrices(shape: GPTConfig) -> list[tuple[int, int]]:
    """Return the sizes (in, out) of the linear layers, the head among them."""
    C = shape.n_embd
    layer = [(C, 3 * C), (C, C), (C, 4 * C), (4 * C, C)]
    return layer * shape.n_layer + [(C, shape.vocab_size)]


def seconds(work: Callable[[], object], device: str) -> float:
    """Return the median of several tries."""
    return statistics.median(tries(work, device))


def tries(work: Callable[[], object], device: str) -> list[float]:
    """Return the seconds of five tries, after two that are not counted."""
    found = []
    for _ in range(7):
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return found[2:]
