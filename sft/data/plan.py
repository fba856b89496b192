"""An epoch as a plan: which records form each micro-batch of each optimizer step on each rank.

The plan is a pure function of its arguments. So four things are known before an epoch begins: its
order, an equal share for each rank, the number of labels by which each step's loss is divided, and
the place at which to resume.
"""

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

# How many steps are sorted together by length, as in transformers' LengthGroupedSampler.
WINDOW = 50


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One rank's rows in one forward and backward pass.

    Attributes:
        rows: the rows of this rank.
        step: the rows of the whole optimizer step, of all ranks and micro-batches.
    """

    rows: Indices
    step: Indices


@dataclass(frozen=True)
class Plan:
    """The order in which `rows` examples are taken, epoch by epoch.

    Attributes:
        batch_size: the most rows of a micro-batch on one rank.
        accumulate: micro-batches per rank in an optimizer step.
        shuffle: draw a new order for each epoch; False: file order, whatever the lengths.
        lengths: (rows,), to bucket rows of similar length, so that little is padded; None: do not.
        sources: (rows,), the number of each row's source; None: there is one.
        weights: for each source, how often its rows come in an epoch: 2 is each twice, 0.3 is 30%
            of them, another draw in each epoch. Empty: each row comes once.
    """

    rows: int
    batch_size: int
    accumulate: int = 1
    world_size: int = 1
    shuffle: bool = False
    seed: int = 0
    lengths: Indices | None = field(default=None, compare=False)
    sources: Indices | None = field(default=None, compare=False)
    weights: tuple[float, ...] = ()

    @cached_property
    def taken(self) -> list[int]:
        """The number of rows that an epoch takes of each source."""
        if self.sources is None or not self.weights:
            return [self.rows]
        counts = np.bincount(self.sources, minlength=len(self.weights)).tolist()

        # The small number rounds 30% of 5 up to 2, although a double cannot hold 0.3 exactly.
        return [
            max(1, int(count * weight + 0.5 + 1e-9)) if count else 0
            for count, weight in zip(counts, self.weights, strict=True)
        ]

    @property
    def epoch_rows(self) -> int:
        """Rows of an epoch, a row that comes twice counted twice."""
        return sum(self.taken)

    @property
    def rows_per_step(self) -> int:
        """Rows of a full optimizer step, on all ranks."""
        return self.batch_size * self.accumulate * self.world_size

    @property
    def steps(self) -> int:
        """Optimizer steps in an epoch; the last may be short."""
        return -(-self.epoch_rows // self.rows_per_step)

    @property
    def buckets(self) -> bool:
        """Whether rows of similar length share a micro-batch."""
        return self.shuffle and self.lengths is not None

    def order(self, epoch: int) -> Indices:
        """Return the rows of an epoch in their order, (epoch_rows,)."""
        random = np.random.default_rng((self.seed, epoch))
        rows = self._drawn(random)
        if not self.shuffle:
            return rows
        order = rows[random.permutation(len(rows))]
        return order if self.lengths is None else self._bucketed(order, self.lengths, random)

    def _drawn(self, random: np.random.Generator) -> Indices:
        """Return the rows that an epoch takes, ascending."""
        if self.sources is None or not self.weights:
            return np.arange(self.rows)
        parts: list[Indices] = []
        for source, count in enumerate(self.taken):
            rows = np.flatnonzero(self.sources == source)
            if not count:
                continue

            # All rows come this many times, and the rest is drawn.
            times, rest = divmod(count, len(rows))
            parts += [np.tile(rows, times), random.permutation(rows)[:rest]]
        return np.sort(np.concatenate(parts))

    def _bucketed(self, order: Indices, lengths: Indices, random: np.random.Generator) -> Indices:
        """Sort by length within windows of some steps, then shuffle the steps.

        The rows of a step depend on its size alone, not on how it is divided among ranks and
        micro-batches. A short last step stays last, with rows of any length.
        """
        full = len(order) // self.rows_per_step
        whole, rest = np.split(order, [full * self.rows_per_step])

        # A small data set still gets four windows. With one, every epoch would have equal steps.
        window = max(1, min(WINDOW, full // 4)) * self.rows_per_step
        whole = whole[np.lexsort((lengths[whole], np.arange(len(whole)) // window))]
        steps = random.permutation(whole.reshape(full, self.rows_per_step))
        return np.concatenate([steps.ravel(), rest[np.argsort(lengths[rest], kind="stable")]])

    def micro_batches(self, epoch: int, rank: int) -> list[MicroBatch]:
        """Return the micro-batches of a rank in an epoch, in order.

        Every rank gets the same number of them. In the last step, which may have fewer rows than
        there are ranks, some can be empty.
        """
        order = self.order(epoch)

        # Steps have at most two sizes: the full one, and the last step's.
        shares = {
            rows: self._shares(rows, rank)
            for rows in (self.rows_per_step, len(order) % self.rows_per_step)
        }

        found: list[MicroBatch] = []
        for start in range(0, len(order), self.rows_per_step):
            step = order[start : start + self.rows_per_step]
            for share in shares[len(step)]:
                found.append(MicroBatch(step[share], step))
        return found

    def _shares(self, rows: int, rank: int) -> list[slice]:
        """Return one rank's slice of each round of micro-batches, for a step of `size` rows.

        Ranks differ by at most one row. With buckets, the sorted rows are dealt out in turn, so
        ranks also differ by at most (longest - shortest) tokens.
        """
        rounds = -(-rows // (self.batch_size * self.world_size))
        if self.buckets:
            parts = _divide(rows, rounds)
            return [slice(part.start + rank, part.stop, self.world_size) for part in parts]
        return _divide(rows, rounds * self.world_size)[rank :: self.world_size]


def _divide(rows: int, parts: int) -> list[slice]:
    """Divide rows into parts whose sizes differ by at most one, the larger parts first."""
    size, larger = divmod(rows, parts) if parts else (0, 0)
    bounds = [part * size + min(part, larger) for part in range(parts + 1)]
    return [slice(*pair) for pair in pairwise(bounds)]
