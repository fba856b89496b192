"""Memory that training takes, by size of the model: a table, as Markdown.

    python -m tests.benchmarks.memory --measure small medium

sft/training/estimate.py computes it for a GPU with bf16. CUDA and fragmented memory are taken as
1 GiB of each limit. `--measure` adds two columns: the peak of a process on this machine's CPU, and
the estimate for that CPU. The peak is taken in two steps with random weights, above what the
process held before the model.
"""

import argparse
from bisect import bisect_right
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import torch

from sft.checkpoint.weights import skeleton
from sft.config.schema import Moments, OptimConfig
from sft.data.batches import IGNORE_INDEX
from sft.device import DTYPES, keep_freed_memory, pick_precision
from sft.gpt2.model import GPT
from sft.training.estimate import Shape, batch_bytes, weight_bytes
from sft.training.optim import adamw
from tests.benchmarks.data import in_own_process, peak
from tests.benchmarks.speed import SIZES

GIB = 1 << 30
MOST_ROWS = 1 << 20
# GPUs' memory, in GiB.
LIMITS = (8, 16, 24, 80)


class Way(NamedTuple):
    """A way to train."""

    masked: bool = False
    checkpointing: bool = False
    moments: Moments = "fp32"


WAYS = {
    "full": Way(),
    "mask_prompt": Way(masked=True),
    "activation checkpointing": Way(checkpointing=True),
    "activation checkpointing, moments in 8 bits": Way(checkpointing=True, moments="8bit"),
}


def step(model: GPT, optimizer: torch.optim.Optimizer, shape: Shape, dtype: torch.dtype) -> None:
    """Take an optimizer step as Lightning does.

    The gradient of the step before is still held in the forward pass.
    """
    ids = torch.randint(model.config.vocab_size, (shape.rows, shape.length))
    labels = ids.clone()
    labels[:, : shape.length - shape.targets // shape.rows] = IGNORE_INDEX
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = model.token_losses(ids, labels, torch.full((shape.rows,), shape.length)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def measured(
    size: str, shape: Shape, checkpointing: bool, dtype: torch.dtype, moments: Moments
) -> SimpleNamespace:
    """Train in this process, and return how far its peak rose, in bytes."""
    keep_freed_memory()
    before = peak()
    model = GPT(SIZES[size]).train()
    model.activation_checkpointing = checkpointing
    optimizer = adamw(model, OptimConfig(moments=moments))
    for _ in range(2):
        step(model, optimizer, shape, dtype)
    return SimpleNamespace(bytes=peak() - before)


def most_rows(
    model: GPT,
    length: int,
    targets: int,
    dtype: torch.dtype,
    device: str,
    limit: int,
    moments: Moments = "fp32",
) -> int:
    """Return the most rows of a batch that trains within the limit.

    Args:
        length: tokens of a row.
        targets: learned tokens of a row.
        limit: bytes.
    """

    def needed(rows: int) -> int:
        shape = Shape(rows, length, rows * length, rows * targets)
        return weight_bytes(model, moments) + int(batch_bytes(model, shape, dtype, device))

    return bisect_right(range(1, MOST_ROWS), limit, key=needed)


def row(size: str, way: str, shape: Shape, measure: bool) -> str:
    """Return a line of the table."""
    masked, checkpointing, moments = WAYS[way]
    model = skeleton(SIZES[size])
    model.activation_checkpointing = checkpointing
    if not masked:
        shape = shape._replace(targets=shape.tokens)

    # A GPU, computed.
    answer = shape.targets // shape.rows
    needed = weight_bytes(model, moments) + batch_bytes(model, shape, torch.bfloat16, "cuda")
    fitting = [
        most_rows(model, shape.length, answer, torch.bfloat16, "cuda", (gib - 1) * GIB, moments)
        for gib in LIMITS
    ]

    # This CPU, measured and computed.
    here = ["", ""]
    if measure:
        dtype = DTYPES[pick_precision("auto", "cpu")]
        estimate = weight_bytes(model, moments) + batch_bytes(model, shape, dtype, "cpu")
        found = in_own_process(partial(measured, size, shape, checkpointing, dtype, moments)).bytes
        here = [f"{found / GIB:.1f} GiB", f"{estimate / GIB:.1f} GiB"]
    cells = [
        size,
        way,
        f"{needed / GIB:.1f} GiB",
        *(f"{rows:,}" if rows else "–" for rows in fitting),
        *here,
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=8, help="(%(default)s)")
    parser.add_argument(
        "--length", type=int, default=256, help="tokens of each record (%(default)s)"
    )
    parser.add_argument(
        "--answer", type=int, help="of them the answer's, learned with mask_prompt; else half"
    )
    parser.add_argument(
        "--measure", choices=SIZES, nargs="*", default=[], help="sizes to train on this CPU"
    )
    args = parser.parse_args()
    tokens = args.batch_size * args.length
    answer = args.answer or args.length // 2
    shape = Shape(args.batch_size, args.length, tokens, args.batch_size * answer)
    columns = [f"batch {args.batch_size}, computed", *(f"fits {gib} GiB" for gib in LIMITS)]
    columns += [f"CPU, {pick_precision('auto', 'cpu')}, measured", "CPU, computed"]
    print(f"{args.length} tokens a record, of which mask_prompt learns {answer}\n")
    print(f"| | | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 2) + "|")
    for size in list(SIZES)[1:]:
        for way in WAYS:
            print(row(size, way, shape, size in args.measure), flush=True)


if __name__ == "__main__":
    main()
