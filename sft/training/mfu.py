"""The share of the device's speed that a step reaches, its model FLOPs utilisation (MFU).

Reference: Chowdhery et al., "PaLM" (2022), appendix B. There the device's speed is the one that its
maker names. Here it is measured, with a product of the size of the model's largest layer.
"""

import time

import torch

from sft.gpt2.gpt_config import GPTConfig

# Rows of the measured product. A CPU reaches its speed with a batch's tokens, a GPU needs more.
ROWS = {"cpu": 512, "mps": 4096, "cuda": 16384}
# The product is repeated for this many seconds, this many times, with a pause in between. The
# fastest one counts: where other processes share the CPUs, one long measurement may not see them
# free.
SECONDS = 0.01
TIMES = 3
PAUSE = 0.005


def step_operations(
    config: GPTConfig, tokens: int, targets: float, length: float, frozen: bool
) -> float:
    """Return the floating-point operations of a step's matrix products, forward and backward.

    Args:
        tokens, targets: of the step. The output head runs for targets alone. With
            `data.prompt_weight`, a target of the prompt counts by its weight.
        length: the mean tokens of a row. A token attends to half of them on average.
        frozen: with an adapter, no gradient of the matrices is computed.
    """
    C = config.n_embd
    inner = config.n_inner or 4 * C
    layer = 4 * C * C + 2 * C * inner
    attention = 2 * C * length / 2
    forward = 2 * (tokens * config.n_layer * (layer + attention) + targets * config.vocab_size * C)
    return forward * (2 if frozen else 3)


def product_rate(config: GPTConfig, device: str, dtype: torch.dtype) -> float:
    """Measure the device's products in a type, in floating-point operations per second."""
    C = config.n_embd
    inner = config.n_inner or 4 * C
    x = torch.ones(ROWS[device], C, device=device, dtype=dtype)
    weight = torch.ones(C, inner, device=device, dtype=dtype)
    fastest = float("inf")
    for _ in range(TIMES):
        time.sleep(PAUSE)
        end = time.perf_counter() + SECONDS
        while time.perf_counter() < end:
            began = time.perf_counter()
            # Reading a number waits for the device.
            (x @ weight)[0, 0].item()
            fastest = min(fastest, time.perf_counter() - began)
    return 2 * ROWS[device] * C * inner / fastest
