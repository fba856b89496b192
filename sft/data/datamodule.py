"""The LightningDataModule: the plan's micro-batches, in order, from wherever the trainer stands."""

import signal
from collections.abc import Iterable, Iterator

import numpy as np
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from sft.data.batches import Batch, Examples
from sft.data.loop_state import place_in_plan
from sft.data.plan import MicroBatch, Plan
from sft.data.splits import Split


class PlannedBatches(Dataset[Batch]):
    """The micro-batches of one rank; item i is the i-th of the plan, collated."""

    def __init__(self, examples: Examples, plan: list[MicroBatch], multiple: int = 1) -> None:
        self.examples, self.plan, self.multiple = examples, plan, multiple
        self.targets, self.lengths = examples.targets(), examples.lengths()

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> Batch:
        micro = self.plan[index]
        totals = int(self.targets[micro.step].sum()), int(self.lengths[micro.step].sum())
        return self.examples.batch(micro.rows.tolist(), multiple=self.multiple, totals=totals)


class From(Sampler[int]):
    """The indices from `start` on. Its length counts those before `start` too, as Lightning counts an epoch's batches
    from the epoch's beginning, also when it resumes in the middle."""

    def __init__(self, start: int, length: int) -> None:
        self.start, self.length = start, length

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.length))

    def __len__(self) -> int:
        return self.length


def _leave_signals(worker: int) -> None:
    """A signal to all processes is for the training process alone, which still wants batches up to the step's end; a
    worker ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class InstructionData(LightningDataModule):
    """Batches for training, in the plan's order, and for validation, in file order; each record once per epoch.

    Args:
        splits: train, test, validation; an absent or empty validation split gives no validation.
        bucket: with `shuffle`, put records of like length together, so that little is padded.
        multiple: pad rows to a multiple of this many tokens (64 keeps the number of different shapes low on MPS).
        workers: processes that collate; 0: the training process itself.
    """

    def __init__(
        self,
        splits: dict[str, Split],
        batch_size: int,
        accumulate: int = 1,
        shuffle: bool = True,
        seed: int = 0,
        workers: int = 0,
        multiple: int = 1,
        bucket: bool = False,
    ) -> None:
        super().__init__()
        self.splits, self.batch_size, self.accumulate = splits, batch_size, accumulate
        self.shuffle, self.seed, self.workers, self.multiple = shuffle, seed, workers, multiple
        self.bucket = bucket

    def plan(self, world_size: int) -> Plan:
        examples = self.splits["train"].examples
        lengths = examples.lengths() if self.bucket else None
        return Plan(
            len(examples),
            self.batch_size,
            self.accumulate,
            world_size,
            self.shuffle,
            self.seed,
            lengths,
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        epoch, done = place_in_plan(self.trainer)
        plan = self.plan(self.trainer.world_size).micro_batches(epoch, self.trainer.global_rank)
        return self._loader("train", plan, done)

    def val_dataloader(self) -> Iterable[Batch]:
        assert self.trainer is not None
        if not self.has_validation:
            return []
        rows = len(self.splits["validation"].examples)
        plan = Plan(rows, self.batch_size, world_size=self.trainer.world_size)
        return self._loader("validation", plan.micro_batches(0, self.trainer.global_rank), 0)

    @property
    def has_validation(self) -> bool:
        return len(self.splits["validation"].examples) > 0

    def _loader(self, split: str, plan: list[MicroBatch], done: int) -> DataLoader[Batch]:
        batches = PlannedBatches(self.splits[split].examples, plan, self.multiple)
        return DataLoader(
            batches,
            batch_size=None,
            sampler=From(done, len(batches)),
            num_workers=self.workers,
            worker_init_fn=_leave_signals,
        )

    def first_batches(self, split: str, count: int, mask_prompt: bool | None = None) -> list[Batch]:
        """The first `count` batches of a split in file order, the same on every rank."""
        examples = self.splits[split].examples
        starts = range(0, min(len(examples), count * self.batch_size), self.batch_size)
        rows = [
            np.arange(start, min(start + self.batch_size, len(examples))).tolist()
            for start in starts
        ]
        return [examples.batch(part, mask_prompt, self.multiple) for part in rows]
