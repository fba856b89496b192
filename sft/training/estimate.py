"""An estimate of the memory that training takes, and of the memory there is; in bytes.

The masks of dropout and the narrow inner tensors of an adapter are left out.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from sft.config.schema import Moments
from sft.data.batches import IGNORE_INDEX, Batch
from sft.gpt2.fast import LIMITS
from sft.gpt2.model import GPT, GPTConfig
from sft.training.narrow_adamw import state_bytes

# int, or an array of them. Of the union, mypy would take a sum for one of floats.
Ints = Any


class Shape(NamedTuple):
    """The numbers on which a batch's memory depends; for many batches, arrays (batches,)."""

    rows: Ints  # B
    length: Ints  # T, with padding
    tokens: Ints  # without padding
    targets: Ints  # supervised tokens

    @classmethod
    def of(cls, batch: Batch) -> "Shape":
        rows, length = batch.input_ids.shape
        tokens = int(batch.lengths.sum())
        return cls(rows, length, tokens, int((batch.labels != IGNORE_INDEX).sum()))


def up(number: Ints, multiple: int) -> Ints:
    """Round up to a multiple."""
    return -(-number // multiple) * multiple


def _filled(number: Ints, device: str) -> Ints:
    """Round up as `fast.fill_to_multiple` does."""
    return up(number, LIMITS[device].token_multiple)


def weight_bytes(model: nn.Module, moments: Moments = "fp32") -> int:
    """Bytes of the parameters, and of gradient and AdamW's moments for each that is trained."""
    total = 0
    for parameter in model.parameters():
        total += parameter.nbytes
        if parameter.requires_grad:
            total += parameter.nbytes + state_bytes(parameter.numel(), moments)
    return total


def copy_bytes(model: GPT, dtype: torch.dtype) -> int:
    """Bytes of the copies that autocast makes of the layers' matrices, in the products' type."""
    matrices = [p for p in model.h.parameters() if p.dim() == 2 and p.dtype != dtype]
    return sum(matrix.numel() * dtype.itemsize for matrix in matrices)


def layer_bytes(config: GPTConfig, shape: Shape, dtype: torch.dtype, device: str) -> Ints:
    """Bytes that one layer keeps for its backward pass."""
    N = _filled(shape.tokens, device)
    C = config.n_embd
    inner = config.n_inner or 4 * config.n_embd
    padded = shape.rows * shape.length  # B T
    heads = shape.rows * config.n_head * shape.length  # B nh T

    # Without padding: both LayerNorms keep their input in fp32, and mean and deviation of each
    # token. The four matrices and GELU keep their inputs in the type of the products, and
    # attention keeps queries, keys and values.
    norms = 2 * 4 * N * (C + 2)
    stream = norms + dtype.itemsize * N * (6 * C + 2 * inner)

    # With padding: attention by its plain formula keeps queries, keys, values and the weights.
    # torch's fused attention keeps queries, keys, values, its output, and a number for each row.
    plain = stream + dtype.itemsize * (3 * padded * C + heads * shape.length)
    fused = stream + dtype.itemsize * 4 * padded * C + 4 * heads

    limits = LIMITS[device]
    keeps_weights = (shape.length <= limits.plain_attention) | limits.fused_attention_keeps_weights
    return np.where(keeps_weights, plain, fused)


def head_bytes(
    config: GPTConfig, shape: Shape, dtype: torch.dtype, device: str, narrow: bool
) -> Ints:
    """Bytes that embeddings, last LayerNorm, head and cross entropies keep.

    Args:
        narrow: the head is copied into the type of its product.
    """
    N = _filled(shape.tokens, device)
    S = _filled(shape.targets, device)
    C = config.n_embd
    V = config.vocab_size

    # int64: the places of tokens and labels, and the way back from each.
    places = 8 * (2 * N + shape.rows * shape.length + S)
    norm = 4 * N * (C + 2)
    multiple = LIMITS[device].buffer_multiple
    head = dtype.itemsize * up(V, multiple) * C if narrow else 0
    hidden = S * C * dtype.itemsize

    # In fp16 torch's own cross entropy is used, which keeps fp16, fp32 and the softmax.
    logit = dtype.itemsize if dtype != torch.float16 else 10
    return places + norm + head + hidden + up(S, multiple) * V * logit


def batch_bytes(model: GPT, shape: Shape, dtype: torch.dtype, device: str) -> Ints:
    """Bytes kept of a batch between its forward and backward pass; for many, an array (batches,).

    Args:
        dtype: of the products.
        device: `cpu`, `cuda` or `mps`.
    """
    config = model.config
    layers = config.n_layer * layer_bytes(config, shape, dtype, device)
    if model.activation_checkpointing:
        # Each layer keeps its input, and one layer at a time is computed again.
        inputs = config.n_layer * 4 * _filled(shape.tokens, device) * config.n_embd
        layers = inputs + layers // config.n_layer
    ends = head_bytes(config, shape, dtype, device, narrow=model.wte.weight.dtype != dtype)
    return layers + copy_bytes(model, dtype) + ends


def free_memory(device: str, root: Path = Path("/")) -> int | None:
    """Bytes that this process can still allocate; None: not known.

    The machine limits them, and so do the control groups of the process.
    """
    if device == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    limits = []
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            limits.append(int(line.split()[1]) * 1024)
    return min([*limits, *_left_in_groups(root)], default=None)


def _left_in_groups(root: Path) -> Iterator[int]:
    """Bytes left in each control group that limits this process, as in a container or a job.

    Cached pages of files count as free, since they are given up when memory is wanted.
    """
    for line in _lines(root / "proc/self/cgroup"):
        _, kind, path = line.split(":", 2)
        # Version 2 has no kind. Of version 1, only the memory controller matters.
        if kind not in ("", "memory"):
            continue
        limit_name = "memory.limit_in_bytes" if kind else "memory.max"
        used_name = "memory.usage_in_bytes" if kind else "memory.current"
        files_name = "total_inactive_file" if kind else "inactive_file"

        own = Path(kind, path.strip("/"))
        for part in (own, *own.parents):
            group = root / "sys/fs/cgroup" / part
            limit = "".join(_lines(group / limit_name))
            used = "".join(_lines(group / used_name))
            # A group without a limit says "max".
            if limit.isdigit() and used.isdigit():
                stat = dict(entry.split() for entry in _lines(group / "memory.stat"))
                yield int(limit) - int(used) + int(stat.get(files_name, "0"))


def _lines(path: Path) -> list[str]:
    """Return the lines of a file; none if this process may not or cannot read it."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
