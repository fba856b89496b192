"""Whether a run's largest batch has enough memory: an estimate of what it takes, and on a GPU a try before step 1."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import nn

from sft.config import InputError
from sft.data.dataset import IGNORE_INDEX, Batch, Examples
from sft.data.plan import MicroBatch, Plan
from sft.gpt2.device import DTYPES
from sft.gpt2.model import GPT, GPTConfig
from sft.gpt2.padding import MULTIPLE, PLAIN
from sft.training.metrics import data_of
from sft.training.module import InstructionTuner
from sft.training.sharding import Sharded

log = logging.getLogger(__name__)
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


def _up(number: Ints, multiple: int) -> Ints:
    return -(-number // multiple) * multiple


def _filled(number: Ints, device: str) -> Ints:
    """With what `chosen` adds."""
    return _up(number, MULTIPLE) if device == "cpu" else number


# An estimate, in bytes. Masks of dropout and the narrow inner tensors of an adapter are left out.


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
    most = {"mps": np.inf, "cpu": PLAIN}.get(device, 0)  # on MPS torch's own does as the formula
    return np.where(shape.length <= most, plainly, fused)


def head_bytes(config: GPTConfig, shape: Shape, dtype: torch.dtype, device: str, narrow: bool) -> Ints:
    """Of what embeddings, last LayerNorm, head and cross entropies keep.

    Args:
        narrow: the head is copied into the type of its product.
    """
    N, S = _filled(shape.tokens, device), _filled(shape.targets, device)
    C, V = config.n_embd, config.vocab_size
    places = 8 * (2 * N + shape.rows * shape.length + S)
    head = dtype.itemsize * _up(V, 256) * C if narrow else 0
    logit = dtype.itemsize if dtype != torch.float16 else 10  # torch's own cross entropy: fp16, fp32, and the softmax
    return places + 4 * N * (C + 2) + head + S * C * dtype.itemsize + _up(S, 256) * V * logit


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
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


# A try


def fits_in_memory(
    model: GPT, batch: Batch, device: torch.device, context: AbstractContextManager[None], means: bool
) -> bool:
    """Whether there is memory for a forward and a backward pass; nothing stays of it.

    Args:
        context: of the precision.
        means: take AdamW's means into account, which are not there yet.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    numbers = torch.random.fork_rng([device] if device.type == "cuda" else [])
    try:
        held = [torch.empty_like(parameter) for parameter in trained * (2 if means else 0)]
        gradient = [torch.empty_like(parameter) for parameter in trained]  # of the step before: dropped after forward
        with numbers, context:
            loss = model.token_losses(batch.input_ids, batch.labels, batch.lengths).sum()
        gradient.clear()
        torch.autograd.grad(loss, trained)  # unlike backward(), it is not seen by DDP
        held.clear()
    except torch.OutOfMemoryError:
        return False
    return True


# Before step 1


class EnoughMemory(Callback):
    """Before step 1, the batch of the run that takes the most memory is tried on a GPU; elsewhere a warning is logged
    when its estimate exceeds the free memory. Shards (FSDP) are left out: their ranks can only try together."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, InstructionTuner)
        if trainer.global_step >= pl_module.total_steps or isinstance(trainer.strategy, Sharded):
            return
        batch = heaviest(trainer, pl_module, data_of(trainer).batch_size)
        if pl_module.device.type == "cuda":
            self.attempt(trainer, pl_module, batch)
        else:
            self.estimate(trainer, pl_module, batch)

    def attempt(self, trainer: Trainer, module: InstructionTuner, batch: Batch) -> None:
        """Raises InputError: the batch does not fit."""

        def fits(batch: Batch) -> bool:
            batch = trainer.strategy.batch_to_device(batch)
            context = trainer.precision_plugin.train_step_context()
            found = fits_in_memory(module.model, batch, module.device, context, means=not trainer.optimizers[0].state)
            torch.cuda.empty_cache()
            return found

        if not fits(batch):
            raise InputError(too_large(tuple(batch.input_ids.shape), f"; {advice(trainer, module, fits)}"))

    def estimate(self, trainer: Trainer, module: InstructionTuner, batch: Batch) -> None:
        model = module.model
        there = sum(p.nbytes for p in model.parameters()) + _held(trainer.optimizers[0])
        free, ranks = free_memory(module.device.type), trainer.num_devices

        def needed(batch: Batch) -> int:
            return ranks * (weight_bytes(model) - there + int(_estimate(module, Shape.of(batch))))

        if free is not None and needed(batch) > free:
            rows, length = batch.input_ids.shape
            best = advice(trainer, module, lambda batch: needed(batch) <= free)
            log.warning(
                f"a batch of {rows} records of up to {length} tokens may take {needed(batch) / 2**30:.1f} GiB more "
                f"memory, by an estimate, and {free / 2**30:.1f} GiB are free; {best}"
            )


def _estimate(module: InstructionTuner, shape: Shape) -> Ints:
    dtype = DTYPES[module.trainer.precision_plugin.precision]
    return batch_bytes(module.model, shape, dtype, module.device.type)


def heaviest(trainer: Trainer, module: InstructionTuner, batch_size: int) -> Batch:
    """Of this rank's batches up to the end of the run, the one with the largest estimate.

    Args:
        batch_size: the run's, or one that divides it: then each step still has its records.
    """
    data, rows, most = data_of(trainer), [], 0
    examples, plan = data.splits["train"].examples, data.plan(trainer.world_size)
    plan = dataclasses.replace(plan, batch_size=batch_size, accumulate=data.accumulate * data.batch_size // batch_size)
    for batches in remaining(plan, trainer.global_rank, trainer.global_step, module.total_steps):
        if parts := [batch.rows for batch in batches if len(batch.rows)]:
            sizes = np.asarray(_estimate(module, shapes(examples, parts, data.multiple)))
            if sizes.max() > most:
                rows, most = parts[sizes.argmax()].tolist(), sizes.max()
    return examples.batch(rows, multiple=data.multiple)


def remaining(plan: Plan, rank: int, done: int, steps: int) -> Iterator[list[MicroBatch]]:
    """What a rank does from optimizer step `done` on, up to `steps`, epoch by epoch."""
    for epoch in range(done // plan.steps, -(-steps // plan.steps)):
        first, last = max(0, done - epoch * plan.steps), steps - epoch * plan.steps
        yield plan.micro_batches(epoch, rank)[first * plan.accumulate : last * plan.accumulate]


def shapes(examples: Examples, parts: Sequence[NDArray[np.int64]], multiple: int) -> Shape:
    """Of the batches that `examples.batch` would make of these rows, none of them empty, without making them."""
    counts, rows = np.array([len(part) for part in parts]), np.concatenate(parts)
    firsts, lengths = counts.cumsum() - counts, examples.lengths()[rows]
    width = np.minimum(_up(np.maximum.reduceat(lengths, firsts), multiple), examples.max_length)
    tokens, targets = np.add.reduceat(lengths, firsts), np.add.reduceat(examples.targets()[rows], firsts)
    return Shape(counts, width, tokens, targets)


def advice(trainer: Trainer, module: InstructionTuner, fits: Callable[[Batch], bool] | None = None) -> str:
    """What the user can do, and has not done yet, for the run to take less memory.

    Args:
        fits: whether a batch does, to name the largest batch size that would, of those into which the run's can be
            divided; None: not known.
    """
    data, model = data_of(trainer), module.model
    ways = [] if model.activation_checkpointing else ["set activation_checkpointing=true"]
    if trainer.ckpt_path is not None:  # its batches are given
        return ways[0] if ways else "use a device with more memory, or start a new run with a smaller batch_size"
    ways.append("lower data.max_length")
    if all(parameter.requires_grad for parameter in model.parameters()) and not isinstance(trainer.strategy, Sharded):
        ways.append("set lora=default")
    smaller = [size for size in range(data.batch_size // 2, 0, -1) if data.batch_size % size == 0]
    if fits is None:
        if smaller:
            ways.insert(0, "lower batch_size and raise accumulate, which trains the same")
        return "; or ".join(ways)
    best = next((size for size in smaller if fits(heaviest(trainer, module, size))), None)
    if best is None:
        return f"no smaller one fits either: {'; or '.join(ways)}"
    accumulate = data.accumulate * data.batch_size // best
    return "; or ".join([f"batch_size={best} accumulate={accumulate} would fit, and trains the same", *ways])


def too_large(shape: tuple[int, ...], remedy: str) -> str:
    """The message of a GPU without enough memory for a batch of shape (B, T)."""
    rows, length = shape
    return f"batch_size: the GPU's memory does not hold a batch of {rows} records of up to {length} tokens{remedy}"


def _held(optimizer: torch.optim.Optimizer) -> int:
    return sum(value.nbytes for state in optimizer.state.values() for value in state.values() if value.dim())
