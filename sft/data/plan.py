"""An epoch as a plan: which records form each micro-batch of each optimizer step on each rank.

The plan is a pure function of its arguments, so shuffling, equal work on all ranks, the number of labels that a step's
loss is divided by, and the place at which to resume are all known before the epoch begins.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class MicroBatch:
    """What one rank works on between two synchronisations, and the whole optimizer step that it is a part of."""

    rows: Indices
    step: Indices


@dataclass(frozen=True)
class Plan:
    """How `rows` examples are taken, epoch by epoch.

    Args:
        batch_size: the most examples of a micro-batch on one rank.
        accumulate: micro-batches per rank in an optimizer step.
        shuffle: a new order for each epoch; False: file order.
    """

    rows: int
    batch_size: int
    accumulate: int = 1
    world_size: int = 1
    shuffle: bool = False
    seed: int = 0

    @property
    def rows_per_step(self) -> int:
        return self.batch_size * self.accumulate * self.world_size

    @property
    def steps(self) -> int:
        """Optimizer steps in an epoch; the last may be short."""
        return -(-self.rows // self.rows_per_step)

    def order(self, epoch: int) -> Indices:
        if not self.shuffle:
            return np.arange(self.rows)
        return np.random.default_rng((self.seed, epoch)).permutation(self.rows)

    def micro_batches(self, epoch: int, rank: int) -> list[MicroBatch]:
        """All that a rank does in an epoch, in order. Every rank gets the same number of micro-batches; in the last
        step, which may have fewer rows than ranks, some can be empty."""
        return list(self._micro_batches(self.order(epoch), rank))

    def _micro_batches(self, order: Indices, rank: int) -> Iterator[MicroBatch]:
        for start in range(0, self.rows, self.rows_per_step):
            step = order[start : start + self.rows_per_step]
            rounds = -(-len(step) // (self.batch_size * self.world_size))
            parts = np.array_split(step, rounds * self.world_size)  # sizes differ by one at most
            for part in parts[rank :: self.world_size]:
                yield MicroBatch(part, step)
