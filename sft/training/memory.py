"""Whether a run's longest batch has enough memory: an estimate of what it takes, and on a GPU a try before step 1."""

import logging
from bisect import bisect_right
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from sft.config import InputError
from sft.data.datamodule import InstructionData, PlannedBatches
from sft.data.dataset import IGNORE_INDEX, Batch
from sft.gpt2.device import DTYPES
from sft.gpt2.loss import Kept
from sft.gpt2.model import GPT, GPTConfig
from sft.gpt2.padding import MULTIPLE, PLAIN
from sft.training.module import InstructionTuner
from sft.training.sharding import Sharded

log = logging.getLogger(__name__)
MOST_ROWS = 1 << 20


class Shape(NamedTuple):
    """What a batch's memory depends on."""

    rows: int  # B
    length: int  # T, with padding
    tokens: int  # real ones
    targets: int

    @classmethod
    def of(cls, batch: Batch) -> "Shape":
        rows, length = batch.input_ids.shape
        return cls(rows, length, int(batch.lengths.sum()), int((batch.labels != IGNORE_INDEX).sum()))

    @property
    def real(self) -> int:
        """N, with what `chosen` adds."""
        return min(_up(self.tokens, MULTIPLE), self.rows * self.length)


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


# An estimate, in bytes. Masks of dropout and the narrow inner tensors of an adapter are left out.


def of_weights(model: nn.Module) -> int:
    """Of the parameters, and for each that is trained its gradient and AdamW's two means."""
    return sum(parameter.nbytes * (4 if parameter.requires_grad else 1) for parameter in model.parameters())


def of_copies(model: GPT, dtype: torch.dtype) -> int:
    """Of the layers' matrices in the type of their products, which autocast makes."""
    matrices = [p for p in model.h.parameters() if p.dim() == 2 and p.dtype != dtype]
    return sum(matrix.numel() * dtype.itemsize for matrix in matrices)


def of_layer(config: GPTConfig, shape: Shape, dtype: torch.dtype, device: str) -> int:
    """Of what a layer keeps for its backward pass: the inputs, in fp32, of both LayerNorms, with mean and deviation of
    each token; in the type of the products, the inputs of the four matrices and of GELU, and queries, keys and values
    without their padding; and what attention keeps of them with it."""
    N, C, inner = shape.real, config.n_embd, config.n_inner or 4 * config.n_embd
    padded, heads = shape.rows * shape.length, shape.rows * config.n_head * shape.length  # B T, and B nh T
    stream = 2 * 4 * N * (C + 2) + dtype.itemsize * N * (6 * C + 2 * inner)
    if device == "mps" or (device == "cpu" and shape.length <= PLAIN):  # on MPS torch's own does as the formula
        return stream + dtype.itemsize * (3 * padded * C + heads * shape.length)
    return stream + dtype.itemsize * 4 * padded * C + 4 * heads


def of_ends(config: GPTConfig, shape: Shape, dtype: torch.dtype, narrow: bool) -> int:
    """Of what embeddings, last LayerNorm, head and cross entropies keep.

    Args:
        narrow: the head is copied into the type of its product.
    """
    N, C, V = shape.real, config.n_embd, config.vocab_size
    S = min(_up(shape.targets, MULTIPLE), N)
    places = 8 * (2 * N + shape.rows * shape.length + S)
    head = dtype.itemsize * _up(V, 256) * C if narrow else 0
    logit = dtype.itemsize if dtype != torch.float16 else 10  # torch's own cross entropy: fp16, fp32, and the softmax
    return places + 4 * N * (C + 2) + head + S * C * dtype.itemsize + _up(S, 256) * V * logit


def of_batch(model: GPT, shape: Shape, dtype: torch.dtype, device: str) -> int:
    """Of all that is kept of a batch between its forward and its backward pass.

    Args:
        dtype: of the products.
        device: `cpu`, `cuda` or `mps`.
    """
    config = model.config
    layers = config.n_layer * of_layer(config, shape, dtype, device)
    if model.activation_checkpointing:
        layers = config.n_layer * 4 * shape.real * config.n_embd + layers // config.n_layer
    ends = of_ends(config, shape, dtype, narrow=model.wte.weight.dtype != dtype)
    return layers + of_copies(model, dtype) + ends


def most_rows(model: GPT, length: int, targets: int, dtype: torch.dtype, device: str, limit: int) -> int:
    """The largest batch of rows of `length` tokens, `targets` of them learned, that trains within `limit` bytes."""

    def needed(rows: int) -> int:
        shape = Shape(rows, length, rows * length, rows * targets)
        return of_weights(model) + of_batch(model, shape, dtype, device)

    return bisect_right(range(1, MOST_ROWS), limit, key=needed)


def free_memory(device: str) -> int | None:
    """Bytes that can still be allocated; None: not known."""
    if device == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    info = Path("/proc/meminfo")
    lines = info.read_text(encoding="ascii").splitlines() if info.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


# A try


def runs(model: GPT, batch: Batch, device: torch.device, context: AbstractContextManager[None], means: bool) -> bool:
    """Whether there is memory for a forward and a backward pass; nothing stays of it.

    Args:
        context: of the precision.
        means: take AdamW's means into account, which are not there yet.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kept, model._kept = model._kept, Kept()
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
    finally:
        model._kept = kept
    return True


# Before step 1


class EnoughMemory(Callback):
    """Before step 1, the longest batch of the run is tried on a GPU; elsewhere an estimate beyond the free memory is
    told. Shards (FSDP) are left out: their ranks can only try together."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, InstructionTuner)
        if trainer.global_step >= pl_module.total_steps or isinstance(trainer.strategy, Sharded):
            return
        batch = longest(trainer, pl_module.total_steps)
        if pl_module.device.type == "cuda":
            self.attempt(trainer, pl_module, batch)
        else:
            self.estimate(trainer, pl_module, batch)

    def attempt(self, trainer: Trainer, module: InstructionTuner, batch: Batch) -> None:
        """Raises InputError: the batch does not fit."""

        def fits(batch: Batch) -> bool:
            batch = trainer.strategy.batch_to_device(batch)
            context = trainer.precision_plugin.train_step_context()
            found = runs(module.model, batch, module.device, context, means=not trainer.optimizers[0].state)
            torch.cuda.empty_cache()
            return found

        if not fits(batch):
            raise InputError(too_large(tuple(batch.input_ids.shape), f"; {advice(trainer, module, fits)}"))

    def estimate(self, trainer: Trainer, module: InstructionTuner, batch: Batch) -> None:
        device, model = module.device.type, module.model
        dtype = DTYPES[trainer.precision_plugin.precision]
        there = sum(p.nbytes for p in model.parameters()) + _held(trainer.optimizers[0])
        free, ranks = free_memory(device), trainer.num_devices

        def needed(batch: Batch) -> int:
            return ranks * (of_weights(model) - there + of_batch(model, Shape.of(batch), dtype, device))

        if free is not None and needed(batch) > free:
            rows, length = batch.input_ids.shape
            best = advice(trainer, module, lambda batch: needed(batch) <= free)
            log.warning(
                f"a batch of {rows} records of up to {length} tokens may take {needed(batch) / 2**30:.1f} GiB more "
                f"memory, by an estimate, and {free / 2**30:.1f} GiB are free; {best}"
            )


def longest(trainer: Trainer, steps: int) -> Batch:
    """That of this rank's batches, in all epochs of the run, which has the most tokens."""
    data = _data(trainer)
    plan, lengths = data.plan(trainer.world_size), data.splits["train"].examples.lengths()
    epochs = [plan.micro_batches(epoch, trainer.global_rank) for epoch in range(-(-steps // plan.steps))]
    micro = max((micro for epoch in epochs for micro in epoch), key=lambda micro: lengths[micro.rows].sum())
    return PlannedBatches(data.splits["train"].examples, [micro], data.multiple)[0]


def advice(trainer: Trainer, module: InstructionTuner, fits: Callable[[Batch], bool]) -> str:
    """What would fit: of the batch sizes into which this one can be divided, the largest whose longest records do."""
    data = _data(trainer)
    size, examples = data.batch_size, data.splits["train"].examples
    rows = examples.lengths().argsort(kind="stable")[::-1].tolist()
    smaller = [part for part in range(size // 2, 0, -1) if size % part == 0]
    best = next((part for part in smaller if fits(examples.batch(rows[:part], multiple=data.multiple))), None)
    less = "" if module.model.activation_checkpointing else ", or set activation_checkpointing=true"
    if best is None:
        return f"no smaller one fits either; lower data.max_length, or set lora=default{less}"
    accumulate = data.accumulate * size // best
    return f"batch_size={best} accumulate={accumulate} would fit, and trains the same; or lower data.max_length{less}"


def too_large(shape: tuple[int, ...], remedy: str) -> str:
    """The message of a GPU without enough memory for a batch of shape (B, T)."""
    rows, length = shape
    return f"batch_size: the GPU's memory does not hold a batch of {rows} records of up to {length} tokens{remedy}"


def _data(trainer: Trainer) -> InstructionData:
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, InstructionData)
    return data


def _held(optimizer: torch.optim.Optimizer) -> int:
    return sum(value.nbytes for state in optimizer.state.values() for value in state.values() if value.dim())
