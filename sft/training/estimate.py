"""An estimate of the memory that training takes, and what memory there is; in bytes.

Masks of dropout and the narrow inner tensors of an adapter are left out.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from sft.data.dataset import IGNORE_INDEX, Batch
from sft.gpt2.fast import LIMITS
from sft.gpt2.model import GPT, GPTConfig

Ints = Any  # int, or an array of them: of the union, mypy takes a sum for one of floats


class Shape(NamedTuple):
    """What a batch's memory depends on; of many batches, arrays (batches,)."""

    rows: Ints  # B
    length: Ints  # T, with padding
    tokens: Ints  # real ones
    targets: Ints

    @classmethod
    def of(cls, batch: Batch) -> "Shape":
        rows, length = batch.input_ids.shape
        return cls(rows, length, int(batch.lengths.sum()), int((batch.labels != IGNORE_INDEX).sum()))


def up(number: Ints, multiple: int) -> Ints:
    return -(-number // multiple) * multiple


def _filled(number: Ints, device: str) -> Ints:
    """With what `fast.fill_to_multiple` adds."""
    return up(number, LIMITS[device].token_multiple)


def weight_bytes(model: nn.Module) -> int:
    """Of the parameters, and for each that is trained its gradient and AdamW's two means."""
    return sum(parameter.nbytes * (4 if parameter.requires_grad else 1) for parameter in model.parameters())


def copy_bytes(model: GPT, dtype: torch.dtype) -> int:
    """Of the layers' matrices in the type of their products, which autocast makes."""
    matrices = [p for p in model.h.parameters() if p.dim() == 2 and p.dtype != dtype]
    return sum(matrix.numel() * dtype.itemsize for matrix in matrices)


def layer_bytes(config: GPTConfig, shape: Shape, dtype: torch.dtype, device: str) -> Ints:
    """Of what a layer keeps for its backward pass: the inputs, in fp32, of both LayerNorms, with mean and deviation of
    each token; in the type of the products, the inputs of the four matrices and of GELU, and queries, keys and values
    without their padding; and what attention keeps of them with it."""
    N, C, inner = _filled(shape.tokens, device), config.n_embd, config.n_inner or 4 * config.n_embd
    padded, heads = shape.rows * shape.length, shape.rows * config.n_head * shape.length  # B T, and B nh T
    stream = 2 * 4 * N * (C + 2) + dtype.itemsize * N * (6 * C + 2 * inner)
    plainly = stream + dtype.itemsize * (3 * padded * C + heads * shape.length)
    fused = stream + dtype.itemsize * 4 * padded * C + 4 * heads
    limits = LIMITS[device]
    keeps_weights = (shape.length <= limits.plain_attention) | limits.fused_attention_keeps_weights
    return np.where(keeps_weights, plainly, fused)


def head_bytes(config: GPTConfig, shape: Shape, dtype: torch.dtype, device: str, narrow: bool) -> Ints:
    """Of what embeddings, last LayerNorm, head and cross entropies keep.

    Args:
        narrow: the head is copied into the type of its product.
    """
    N, S = _filled(shape.tokens, device), _filled(shape.targets, device)
    C, V = config.n_embd, config.vocab_size
    places = 8 * (2 * N + shape.rows * shape.length + S)
    multiple = LIMITS[device].buffer_multiple
    head = dtype.itemsize * up(V, multiple) * C if narrow else 0
    logit = dtype.itemsize if dtype != torch.float16 else 10  # torch's own cross entropy: fp16, fp32, and the softmax
    return places + 4 * N * (C + 2) + head + S * C * dtype.itemsize + up(S, multiple) * V * logit


def batch_bytes(model: GPT, shape: Shape, dtype: torch.dtype, device: str) -> Ints:
    """Of all that is kept of a batch between its forward and its backward pass; of many, an array (batches,).

    Args:
        dtype: of the products.
        device: `cpu`, `cuda` or `mps`.
    """
    config = model.config
    layers = config.n_layer * layer_bytes(config, shape, dtype, device)
    if model.activation_checkpointing:
        layers = config.n_layer * 4 * _filled(shape.tokens, device) * config.n_embd + layers // config.n_layer
    ends = head_bytes(config, shape, dtype, device, narrow=model.wte.weight.dtype != dtype)
    return layers + copy_bytes(model, dtype) + ends


def free_memory(device: str, root: Path = Path("/")) -> int | None:
    """Bytes that can still be allocated, by the machine and by the control groups of this process; None: not known."""
    if device == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    lines = _lines(root / "proc/meminfo")
    machine = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return min([*machine, *_left(root)], default=None)


def _left(root: Path) -> Iterator[int]:
    """Bytes left in each control group that limits this process: a container's, or a job scheduler's. Pages of files,
    which are given up when memory is wanted, count as free."""
    for line in _lines(root / "proc/self/cgroup"):
        _, kind, path = line.split(":", 2)
        if kind not in ("", "memory"):  # version 2, or the memory of version 1
            continue
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if kind else ("memory.max", "memory.current")
        own = Path(kind, path.strip("/"))
        for group in (root / "sys/fs/cgroup" / part for part in (own, *own.parents)):
            limit, used = ("".join(_lines(group / name)) for name in names)
            if limit.isdigit() and used.isdigit():  # "max": no limit
                stat = dict(entry.split() for entry in _lines(group / "memory.stat"))
                files = stat.get("total_inactive_file" if kind else "inactive_file", "0")
                yield int(limit) - int(used) + int(files)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:  # not there, or not for this process: then no limit is known from it
        return []
