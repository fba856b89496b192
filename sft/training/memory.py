"""Whether there is enough memory for a run's largest batch: tried before step 1 on a GPU, estimated elsewhere."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray

from sft.config import InputError
from sft.data.dataset import Batch, Examples
from sft.data.plan import MicroBatch, Plan
from sft.gpt2.device import DTYPES
from sft.gpt2.model import GPT
from sft.training.estimate import Ints, Shape, batch_bytes, free_memory, up, weight_bytes
from sft.training.metrics import data_of
from sft.training.module import InstructionTuner
from sft.training.sharding import Sharded

log = logging.getLogger(__name__)
MARGIN = {"cpu": 1.3, "mps": 1.0}  # what a batch takes beside its estimate, for `make bench-memory` measured up to 1.2


def fits_in_memory(
    model: GPT,
    batch: Batch,
    device: torch.device,
    context: AbstractContextManager[None],
    means: bool,
    accumulated: bool,
) -> bool:
    """Whether there is memory for a forward and a backward pass; nothing stays of it.

    Args:
        context: of the precision.
        means: take AdamW's means into account, which are not there yet.
        accumulated: the gradient of another micro-batch of the step is there meanwhile.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    numbers = torch.random.fork_rng([device] if device.type == "cuda" else [])
    try:
        held = [torch.empty_like(parameter) for parameter in trained * (2 if means else 0)]
        gradient = [torch.empty_like(parameter) for parameter in trained]  # a step before: dropped after the forward
        with numbers, context:
            loss = model.token_losses(batch.input_ids, batch.labels, batch.lengths).sum()
        if not accumulated:
            gradient.clear()
        torch.autograd.grad(loss, trained)  # unlike backward(), it is not seen by DDP
        held.clear()
        gradient.clear()
    except torch.OutOfMemoryError:
        return False
    return True


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
        rows, split = len(batch.records), data_of(trainer).accumulate > 1

        def fits(batch: Batch) -> bool:
            batch = trainer.strategy.batch_to_device(batch)
            context = trainer.precision_plugin.train_step_context()
            means, accumulated = not trainer.optimizers[0].state, split or len(batch.records) < rows
            found = fits_in_memory(module.model, batch, module.device, context, means, accumulated)
            torch.cuda.empty_cache()
            return found

        if not fits(batch):
            raise InputError(too_large(tuple(batch.input_ids.shape), f"; {advice(trainer, module, fits)}"))

    def estimate(self, trainer: Trainer, module: InstructionTuner, batch: Batch) -> None:
        model = module.model
        there = sum(p.nbytes for p in model.parameters()) + _held(trainer.optimizers[0])
        free, ranks = free_memory(module.device.type), trainer.num_devices

        def needed(batch: Batch) -> int:
            batch_alone = int(_estimate(module, Shape.of(batch)) * MARGIN[module.device.type])
            return ranks * (weight_bytes(model) - there + batch_alone)

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
    width = np.minimum(up(np.maximum.reduceat(lengths, firsts), multiple), examples.max_length)
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
