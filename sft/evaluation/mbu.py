"""The speed of answering, and the share of the memory's speed that it reaches.

A step of decoding reads all weights for one token of each answer, so that memory bounds it. The
share of the bound that is reached is the model bandwidth utilisation (MBU; Agarwal et al., "LLM
Inference Performance Engineering: Best Practices", Databricks, 2023). There memory's speed is the
one that its maker names, and the cache of keys and values counts too. Here it is measured, and the
weights alone are counted.
"""

import time

import torch

from sft.evaluation.measure import ModelResult
from sft.gpt2.generate import Timing
from sft.scoring.results import AnsweringSpeed, EvaluationSummary

# A tensor that the caches of most processors do not hold. On a CPU with 260 MiB of cache, 256 MiB
# were read at 10.5 GB/s, 768 MiB at 10.4, and 128 MiB at 23. To fill and to read them takes up to
# 0.15 s of the processor, most of it for memory that is fresh.
READ_BYTES = 256 << 20
# Reads before the CPU waits. One read on a GPU is shorter than its launch, so several are queued.
READS = {"cpu": 1, "mps": 16, "cuda": 16}


def memory_rate(device: str, read_bytes: int | None = None, tries: int = 2) -> float:
    """Measure how many bytes per second are read from memory; the fastest of several tries.

    Args:
        read_bytes: in each try; None: READ_BYTES.
    """
    read_bytes = read_bytes or READ_BYTES
    x = torch.ones(read_bytes // 4, device=device)
    fastest = float("inf")
    for _ in range(tries):
        began = time.perf_counter()
        for _ in range(READS[device]):
            total = x.sum()
        # Reading a number waits for the device.
        total.item()
        fastest = min(fastest, time.perf_counter() - began)
    return READS[device] * read_bytes / fastest


def add_speeds(summary: EvaluationSummary, results: dict[str, ModelResult], device: str) -> None:
    """Add to each model in the summary how fast it answered, if any answer was made just now."""
    if not any(result.timing.steps for result in results.values()):
        return
    rate = memory_rate(device)
    for name, result in results.items():
        if result.timing.steps:
            summary.models[name].answering = speed_of(result.timing, result.step_bytes, rate)


def speed_of(timing: Timing, step_bytes: int, rate: float) -> AnsweringSpeed:
    """Return the speed of steps that each read so many bytes, beside memory's rate per second."""
    return AnsweringSpeed(
        steps=timing.steps,
        tokens=timing.tokens,
        seconds=round(timing.seconds, 2),
        tokens_per_sec=round(timing.tokens / timing.seconds, 1),
        mbu=round(timing.steps * step_bytes / timing.seconds / rate, 4),
    )
