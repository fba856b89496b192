"""Check that a run's largest batch fits in memory: on a GPU by trying it, else by an estimate."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray

from sft.config.schema import Moments
from sft.data.batches import Batch, Examples
from sft.data.datamodule import InstructionData
from sft.data.loop_state import datamodule_of, resumed_from_checkpoint
from sft.data.plan import MicroBatch, Plan
from sft.device import DTYPES
from sft.errors import InputError
from sft.objective import Objective
from sft.training.callback import RunCallback
from sft.training.estimate import Ints, Shape, batch_bytes, free_memory, up, weight_bytes
from sft.training.module import InstructionTuner
from sft.training.narrow_adamw import state_bytes
from sft.training.sharding import Sharded

log = logging.getLogger(__name__)

# A batch is assumed to need this many times its estimate. `make bench-memory` measured up to 1.2.
MARGIN = {"cpu": 1.3, "mps": 1.0}


class EnoughMemory(RunCallback):
    """Checks, before step 1, the batch of the run that takes the most memory.

    On a GPU the batch is tried. Elsewhere its memory is estimated, and a warning is logged if that
    exceeds the free memory: running out of memory on the CPU ends the process, and cannot be
    caught. A sharded run is not checked, since its ranks would have to try together.
    """

    def at_train_start(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData
    ) -> None:
        if trainer.global_step >= module.total_steps or isinstance(trainer.strategy, Sharded):
            return
        batch = heaviest(module, data, data.batch_size)
        if module.device.type == "cuda":
            self.attempt(module, data, batch)
        else:
            self.estimate(module, data, batch)

    def attempt(self, module: InstructionTuner, data: InstructionData, batch: Batch) -> None:
        """Try the batch.

        Raises:
            InputError: it does not fit; the message names a batch size that does.
        """
        trainer = module.trainer
        rows = len(batch.records)

        def fits(batch: Batch) -> bool:
            # A step of several micro-batches holds the gradient of one while it computes another.
            accumulated = data.accumulate > 1 or len(batch.records) < rows
            found = fits_in_memory(
                module.objective,
                trainer.strategy.batch_to_device(batch),
                module.device,
                trainer.precision_plugin.train_step_context(),
                state_to_come=None if trainer.optimizers[0].state else module.optim.moments,
                accumulated=accumulated,
            )
            torch.cuda.empty_cache()
            return found

        if not fits(batch):
            raise InputError(too_large(tuple(batch.input_ids.shape), f"; {advice(module, fits)}"))

    def estimate(self, module: InstructionTuner, data: InstructionData, batch: Batch) -> None:
        """Warn if the batch may not fit."""
        trainer = module.trainer
        device = module.device.type
        weights = sum(parameter.nbytes for parameter in module.model.parameters())
        there = weights + _state_bytes(trainer.optimizers[0])
        trained = weight_bytes(module.model, module.optim.moments)
        free = free_memory(device)

        def needed(batch: Batch) -> int:
            batch_alone = int(_estimate(module, Shape.of(batch)) * MARGIN[device])
            return trainer.num_devices * (trained - there + batch_alone)

        if free is not None and needed(batch) > free:
            rows, length = batch.input_ids.shape
            best = advice(module, lambda batch: needed(batch) <= free)
            log.warning(
                f"a batch of {rows} records of up to {length} tokens may take "
                f"{needed(batch) / 2**30:.1f} GiB more memory, by an estimate, and "
                f"{free / 2**30:.1f} GiB are free; {best}"
            )


def fits_in_memory(
    objective: Objective,
    batch: Batch,
    device: torch.device,
    context: AbstractContextManager[None],
    state_to_come: Moments | None,
    accumulated: bool,
) -> bool:
    """Try a forward and a backward pass, and leave nothing of it behind.

    Args:
        context: of the precision.
        state_to_come: the moments that the optimizer has yet to make, for which room is left; None:
            it has made them.
        accumulated: the gradient of another micro-batch is in memory meanwhile.
    """
    trained = [parameter for parameter in objective.model.parameters() if parameter.requires_grad]
    random_state = torch.random.fork_rng([device] if device.type == "cuda" else [])
    try:
        state = []
        if state_to_come:
            sizes = [state_bytes(parameter.numel(), state_to_come) for parameter in trained]
            state = [torch.empty(size, dtype=torch.uint8, device=device) for size in sizes]
        # In a step of one micro-batch, Lightning drops the step before's gradient only after the
        # forward pass.
        gradient = [torch.empty_like(parameter) for parameter in trained]
        with random_state, context:
            loss = objective.loss(batch).sum
        if not accumulated:
            gradient.clear()
        # Unlike backward(), this is not seen by DDP.
        torch.autograd.grad(loss, trained)
        state.clear()
        gradient.clear()
    except torch.OutOfMemoryError:
        return False
    return True


def _estimate(module: InstructionTuner, shape: Shape) -> Ints:
    dtype = DTYPES[module.trainer.precision_plugin.precision]
    return batch_bytes(module.model, shape, dtype, module.device.type)


def _state_bytes(optimizer: torch.optim.Optimizer) -> int:
    values = [value for state in optimizer.state.values() for value in state.values()]
    return sum(value.nbytes for value in values if value.dim())


def heaviest(module: InstructionTuner, data: InstructionData, batch_size: int) -> Batch:
    """Return the batch with the largest estimate, of all that this rank has yet to train on.

    Args:
        batch_size: the run's, or one that divides it, so that each step still has its records.
    """
    trainer = module.trainer
    examples = data.splits["train"].examples
    plan = dataclasses.replace(
        data.plan(trainer.world_size),
        batch_size=batch_size,
        accumulate=data.accumulate * data.batch_size // batch_size,
    )
    rows: list[int] = []
    most = 0
    epochs = remaining(plan, trainer.global_rank, trainer.global_step, module.total_steps)
    for micro_batches in epochs:
        parts = [micro.rows for micro in micro_batches if len(micro.rows)]
        if not parts:
            continue
        sizes = np.asarray(_estimate(module, shapes(examples, parts, data.multiple)))
        if sizes.max() > most:
            rows = parts[sizes.argmax()].tolist()
            most = sizes.max()
    return examples.batch(rows, multiple=data.multiple)


def remaining(plan: Plan, rank: int, done: int, steps: int) -> Iterator[list[MicroBatch]]:
    """Yield a rank's micro-batches from optimizer step `done` up to `steps`, epoch by epoch."""
    last_epoch = -(-steps // plan.steps)
    for epoch in range(done // plan.steps, last_epoch):
        first = max(0, done - epoch * plan.steps)
        last = steps - epoch * plan.steps
        micro_batches = plan.micro_batches(epoch, rank)
        yield micro_batches[first * plan.accumulate : last * plan.accumulate]


def shapes(examples: Examples, parts: Sequence[NDArray[np.int64]], multiple: int) -> Shape:
    """Return the shapes that `examples.batch` would give these rows, without making the batches.

    Args:
        parts: the rows of each batch; none is empty.
    """
    parts = [examples.rows_read(part) for part in parts]
    counts = np.array([len(part) for part in parts])
    firsts = counts.cumsum() - counts
    rows = np.concatenate(parts)
    lengths = (examples.sizes - 1)[rows]
    width = up(np.maximum.reduceat(lengths, firsts), multiple)
    return Shape(
        rows=counts,
        length=np.minimum(width, examples.max_length),
        tokens=np.add.reduceat(lengths, firsts),
        targets=np.add.reduceat(examples.labels_of_rows()[rows], firsts),
    )


def advice(module: InstructionTuner, fits: Callable[[Batch], bool] | None = None) -> str:
    """Return what the user can still do for the run to take less memory.

    Args:
        fits: whether a batch does. With it, the advice names the largest batch size that fits, of
            those that divide the run's. None: nothing can be tried any more.
    """
    trainer = module.trainer
    data = datamodule_of(trainer)
    assert isinstance(data, InstructionData)
    ways = []
    if not module.model.activation_checkpointing:
        ways.append("set activation_checkpointing=true")

    # The batches of a resumed run are given, and so is what it trains.
    if resumed_from_checkpoint(trainer):
        other = "use a device with more memory, or start a new run with a smaller batch_size"
        return ways[0] if ways else other

    ways.append("lower data.max_length")
    trains_all = all(parameter.requires_grad for parameter in module.model.parameters())
    if trains_all and not isinstance(trainer.strategy, Sharded):
        if module.optim.moments == "fp32":
            ways.append("set optim.moments=8bit")
        ways.append("set lora=default")

    sizes = range(data.batch_size // 2, 0, -1)
    smaller = [size for size in sizes if data.batch_size % size == 0]
    if fits is None:
        if smaller:
            ways.insert(0, "lower batch_size and raise accumulate, which trains the same")
        return "; or ".join(ways)
    best = next((size for size in smaller if fits(heaviest(module, data, size))), None)
    if best is None:
        return f"no smaller one fits either: {'; or '.join(ways)}"
    accumulate = data.accumulate * data.batch_size // best
    ways.insert(0, f"batch_size={best} accumulate={accumulate} would fit, and trains the same")
    return "; or ".join(ways)


def too_large(shape: tuple[int, ...], remedy: str) -> str:
    """Return the message of a GPU without memory for a batch of shape (B, T)."""
    rows, length = shape
    return (
        f"batch_size: the GPU's memory cannot hold a batch of {rows} records of up to {length} "
        f"tokens{remedy}"
    )
