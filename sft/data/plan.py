"""An epoch as a plan: which records form each micro-batch of each optimizer step on each rank.

The plan is a pure function of its arguments, so shuffling, equal work on all ranks, the number of labels that a step's
loss is divided by, and the place at which to resume are all known before the epoch begins.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

WINDOW = 50  # steps that are sorted together; as transformers' LengthGroupedSampler has it


@dataclass(frozen=True, slots=True)
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
        shuffle: a new order for each epoch; False: file order, whatever the lengths.
        lengths: of the examples, to have those of like length in one step and micro-batch, so that little is padded;
            None: no matter which.
    """

    rows: int
    batch_size: int
    accumulate: int = 1
    world_size: int = 1
    shuffle: bool = False
    seed: int = 0
    lengths: Indices | None = field(default=None, compare=False)

    @property
    def rows_per_step(self) -> int:
        return self.batch_size * self.accumulate * self.world_size

    @property
    def steps(self) -> int:
        """Optimizer steps in an epoch; the last may be short."""
        return -(-self.rows // self.rows_per_step)

    @property
    def buckets(self) -> bool:
        return self.shuffle and self.lengths is not None

    def order(self, epoch: int) -> Indices:
        if not self.shuffle:
            return np.arange(self.rows)
        random = np.random.default_rng((self.seed, epoch))
        order = random.permutation(self.rows)
        return order if self.lengths is None else self._bucketed(order, self.lengths, random)

    def _bucketed(self, order: Indices, lengths: Indices, random: np.random.Generator) -> Indices:
        """Sort by length within windows of some steps, and shuffle the steps. The short step at the end stays there,
        made of any lengths; what a step holds depends on its size alone, not on how it is divided."""
        full = self.rows // self.rows_per_step
        whole, rest = np.split(order, [full * self.rows_per_step])
        window = max(1, min(WINDOW, full // 4)) * self.rows_per_step  # at least four windows
        whole = whole[np.lexsort((lengths[whole], np.arange(len(whole)) // window))]
        steps = random.permutation(whole.reshape(full, self.rows_per_step))
        return np.concatenate([steps.ravel(), rest[np.argsort(lengths[rest], kind="stable")]])

    def micro_batches(self, epoch: int, rank: int) -> list[MicroBatch]:
        """All that a rank does in an epoch, in order. Every rank gets the same number of micro-batches; in the last
        step, which may have fewer rows than ranks, some can be empty."""
        return list(self._micro_batches(self.order(epoch), rank))

    def _micro_batches(self, order: Indices, rank: int) -> Iterator[MicroBatch]:
        shares = {
            rows: self._shares(rows, rank)
            for rows in (self.rows_per_step, self.rows % self.rows_per_step)
        }
        for start in range(0, self.rows, self.rows_per_step):
            step = order[start : start + self.rows_per_step]
            for share in shares[len(step)]:
                yield MicroBatch(step[share], step)

    def _shares(self, rows: int, rank: int) -> list[slice]:
        """A rank's part of each round of a step, equal in rows to one at most; with buckets also in tokens, to
        the difference of the step's longest and shortest row, as the sorted rows are dealt out in turn."""
        rounds = -(-rows // (self.batch_size * self.world_size))
        if self.buckets:
            return [
                slice(part.start + rank, part.stop, self.world_size)
                for part in _divide(rows, rounds)
            ]
        return _divide(rows, rounds * self.world_size)[rank :: self.world_size]


def _divide(rows: int, parts: int) -> list[slice]:
    """Parts whose sizes differ by one at most, the larger first."""
    size, larger = divmod(rows, parts) if parts else (0, 0)
    bounds = [part * size + min(part, larger) for part in range(parts + 1)]
    return [slice(*pair) for pair in pairwise(bounds)]
