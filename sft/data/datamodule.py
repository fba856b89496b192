"""The LightningDataModule: the plan's micro-batches, from the place where the trainer stands."""

import signal
from collections.abc import Iterable, Iterator, Sequence

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from sft.data.batches import Batch, Examples
from sft.data.loop_state import place_in_plan
from sft.data.plan import MicroBatch, Plan
from sft.data.splits import Split


class PlannedBatches(Dataset[Batch]):
    """The micro-batches of one rank; item i is the i-th micro-batch of the plan, collated."""

    def __init__(self, examples: Examples, plan: list[MicroBatch], multiple: int = 1) -> None:
        self.examples = examples
        self.plan = plan
        self.multiple = multiple
        self.targets = examples.targets()
        self.lengths = examples.lengths()

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> Batch:
        micro = self.plan[index]
        targets = self.targets[micro.step].sum().item()
        tokens = int(self.lengths[micro.step].sum())
        totals = (targets, tokens)
        return self.examples.batch(micro.rows.tolist(), multiple=self.multiple, totals=totals)


class ResumedSampler(Sampler[int]):
    """The indices from `start` on.

    Its length counts those before `start` too: Lightning counts the batches of an epoch from its
    beginning, also when a run resumes in the middle.
    """

    def __init__(self, start: int, length: int) -> None:
        self.start = start
        self.length = length

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.length))

    def __len__(self) -> int:
        return self.length


def _ignore_signals(worker: int) -> None:
    """Ignore SIGINT and SIGTERM in a worker.

    The training process acts on them, and still needs batches until its step ends. Its workers end
    with it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class InstructionData(LightningDataModule):
    """Batches for training, in the plan's order, and for validation, in file order.

    Each record comes once per epoch, unless its source has a weight.

    Args:
        splits: train, test and validation. If validation is empty, there is none.
        bucket: with `shuffle`, put records of similar length together, so that little is padded.
        multiple: pad rows to a multiple of this many tokens. On MPS, 64 keeps the number of
            different shapes low.
        weights: as in `Plan`, for each path in data.path.
        workers: processes that collate; 0: the training process itself does.
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
        weights: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.splits = splits
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.shuffle = shuffle
        self.seed = seed
        self.workers = workers
        self.multiple = multiple
        self.bucket = bucket
        self.weights = tuple(weights)

    def plan(self, world_size: int) -> Plan:
        """Return the training plan for this number of ranks."""
        train = self.splits["train"]
        examples = train.examples
        return Plan(
            rows=len(examples),
            batch_size=self.batch_size,
            accumulate=self.accumulate,
            world_size=world_size,
            shuffle=self.shuffle,
            seed=self.seed,
            lengths=examples.lengths() if self.bucket else None,
            sources=train.entries[examples.records] if self.weights else None,
            weights=self.weights,
        )

    def tokens_per_step(self, world_size: int) -> float:
        """Return the tokens that an optimizer step reads on all ranks, as a mean of an epoch."""
        total = int(self.splits["train"].examples.lengths().sum())
        return total / self.plan(world_size).steps

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
        """Whether there are records to validate on."""
        return len(self.splits["validation"].examples) > 0

    def _loader(self, split: str, plan: list[MicroBatch], done: int) -> DataLoader[Batch]:
        batches = PlannedBatches(self.splits[split].examples, plan, self.multiple)
        return DataLoader(
            batches,
            batch_size=None,
            sampler=ResumedSampler(done, len(batches)),
            num_workers=self.workers,
            worker_init_fn=_ignore_signals,
        )

    def first_batches(self, split: str, count: int, mask_prompt: bool | None = None) -> list[Batch]:
        """Return the first `count` batches of a split in file order, the same on every rank.

        Args:
            mask_prompt: as in `Examples.batch`.
        """
        examples = self.splits[split].examples
        end = min(len(examples), count * self.batch_size)
        batches: list[Batch] = []
        for start in range(0, end, self.batch_size):
            rows = range(start, min(start + self.batch_size, end))
            batches.append(examples.batch(rows, mask_prompt, self.multiple))
        return batches
