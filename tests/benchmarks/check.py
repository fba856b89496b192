"""Memory and speed beside a committed baseline of the same processor: `make bench-check`.

    python -m tests.benchmarks.check            # fail if memory or speed left their range
    python -m tests.benchmarks.check --record   # write the baseline of this processor

The shape of a GPT-2 with random weights, batch 8, in processes of their own. A time is the fastest
of several: what else the machine does makes steps slower, never faster. A peak of memory is the
median of several processes: one alone varied by 1.3%.
"""

import argparse
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch

from sft.config.schema import OptimConfig
from sft.device import DTYPES, keep_freed_memory, pick_answer_precision, pick_precision
from sft.gpt2.frozen import freeze
from sft.gpt2.generate import complete
from sft.gpt2.model import GPT
from sft.training.estimate import Shape
from sft.training.optim import adamw
from tests.benchmarks.data import in_own_process, peak
from tests.benchmarks.memory import step
from tests.benchmarks.quiet import watched
from tests.benchmarks.speed import SIZES, processor

BASELINE = Path(__file__).parent / "baseline.json"
# How far memory may be from the baseline, and how much slower a rate may be.
MEMORY = 0.01
SPEED = 0.15

# Processes for each measurement.
PROCESSES = 3

SHAPE = Shape(rows=8, length=56, tokens=448, targets=448)
STEPS = 8
NEW = 48


def training(size: str) -> SimpleNamespace:
    """Train in this process: tokens per second of the fastest step, and the peak of memory."""
    keep_freed_memory()
    torch.manual_seed(0)
    dtype = DTYPES[pick_precision("auto", "cpu")]
    model = GPT(SIZES[size]).train()
    optimizer = adamw(model, OptimConfig())
    seconds = []
    for _ in range(STEPS):
        began = time.perf_counter()
        step(model, optimizer, SHAPE, dtype)
        seconds.append(time.perf_counter() - began)
    return SimpleNamespace(rate=SHAPE.tokens / min(seconds), peak=peak())


def answering(size: str, rows: int) -> SimpleNamespace:
    """Answer in this process: tokens per second of the fastest of three passes."""
    keep_freed_memory()
    torch.manual_seed(0)
    model = GPT(SIZES[size]).to(DTYPES[pick_answer_precision("auto", "cpu")]).eval()
    freeze(model)
    prompts = [list(range(row, row + 44)) for row in range(rows)]
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        list(complete(model, prompts, NEW, slots=rows))
        seconds.append(time.perf_counter() - began)
    return SimpleNamespace(rate=rows * NEW / min(seconds), peak=peak())


def measured(size: str) -> dict[str, float]:
    """Return each number by its name; names that end in `bytes` are memory, others are rates."""
    found = {}
    works = {
        "training": partial(training, size),
        "answering one": partial(answering, size, 1),
        "answering 16": partial(answering, size, 16),
    }
    for name, work in works.items():
        results = [in_own_process(work) for _ in range(PROCESSES)]
        found[f"{name}, tokens/s"] = round(max(result.rate for result in results), 1)
        found[f"{name}, bytes"] = statistics.median(result.peak for result in results)
    return found


def problems(found: dict[str, float], baseline: dict[str, float]) -> list[str]:
    """Return a line for each number that is outside of its range."""
    lines = []
    for name, expected in baseline.items():
        change = found[name] / expected - 1
        is_memory = name.endswith("bytes")
        if abs(change) > MEMORY if is_memory else change < -SPEED:
            allowed = f"within {MEMORY:.0%}" if is_memory else f"no more than {SPEED:.0%} less"
            lines.append(
                f"{name}: {found[name]:,.0f}, expected {allowed} of {expected:,.0f} ({change:+.1%})"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", action="store_true", help="write this processor's baseline")
    parser.add_argument("--size", choices=SIZES, default="small", help="(%(default)s)")
    args = parser.parse_args()
    if busy := watched():
        sys.exit(f"error: the machine is not idle: {'; '.join(busy)}; try again later")

    # Virtual machines with and without AMX give the same name. They train in other precisions.
    threads = f"{torch.get_num_threads()} threads"
    precision = pick_precision("auto", "cpu")
    key = f"gpt2-{args.size}, {processor()}, {threads}, {precision}, torch {torch.__version__}"
    baselines = json.loads(BASELINE.read_text(encoding="utf-8")) if BASELINE.exists() else {}
    if not args.record and key not in baselines:
        sys.exit(f"error: no baseline for {key!r}; --record writes one")

    found = measured(args.size)
    for name, value in found.items():
        print(f"{name}: {value:,.0f}")
    if args.record:
        baselines[key] = found
        BASELINE.write_text(json.dumps(baselines, indent=2, sort_keys=True) + "\n", "utf-8")
        return
    if lines := problems(found, baselines[key]):
        sys.exit("\n".join(f"error: {line}" for line in lines))
    print("all within their ranges")


if __name__ == "__main__":
    main()
