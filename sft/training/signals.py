"""SIGINT and SIGTERM end a run after the current step, with a checkpoint, on all ranks together.

A signal may reach one rank alone. If that rank left, the others would wait for it in their next
collective forever. So a rank only notes its signal, and the ranks agree on it where they meet
anyway: at each optimizer step, and before each batch of a loss probe.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import NamedTuple, NoReturn

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import Strategy
from torch import Tensor

# A launcher hands its processes the Ctrl-C that they have already got from the terminal. Within
# this many seconds, a second SIGINT is taken for the same one.
SAME_CTRL_C = 1.0


class Votes(NamedTuple):
    """The message of a rank to the others: 0 for no, 1 for yes; summed over the ranks."""

    checkpoint_due: float
    sigint: float
    sigterm: float

    def winner(self) -> signal.Signals | None:
        """Return the signal that some rank got. SIGINT wins: a person waits for its answer."""
        if self.sigint:
            return signal.SIGINT
        return signal.SIGTERM if self.sigterm else None


class Signals:
    """The signals of a run: what this rank noted, and what all ranks agreed on.

    `agreed` is the signal on which the run ends. `interrupted` says that it came in the middle of
    a loss probe, whose numbers are then worthless. `checkpoint_due` says that rank 0 wants a
    checkpoint after this step.
    """

    def __init__(self) -> None:
        self.noted: signal.Signals | None = None
        self.agreed: signal.Signals | None = None
        self.interrupted = False
        self.checkpoint_due = False

        # Rank 0's clock decides when a checkpoint is due by time, so that all ranks save together.
        self.wants_checkpoint: Callable[[], bool] = lambda: False

        self._listening = False
        self._noted_at = 0.0
        self._launcher = os.getppid() if "LOCAL_RANK" in os.environ else None

    def listen(self) -> None:
        """Note SIGINT and SIGTERM from now on, instead of ending at once."""
        self._listening = True
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._note)
            signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        again = number == signal.SIGINT and self.noted == signal.SIGINT
        if again and now - self._noted_at > SAME_CTRL_C:
            os._exit(128 + number)
        if self.noted is None:
            self.noted = signal.Signals(number)
            self._noted_at = now

    def own(self) -> signal.Signals | None:
        """Return the signal that this rank noted. A launcher that died counts as SIGTERM."""
        if not self._listening:
            return None
        if self.noted is None and self._launcher not in (None, os.getppid()):
            self.noted = signal.SIGTERM
        return self.noted

    def agree_at_step(self, sums: Tensor, strategy: Strategy) -> list[float]:
        """Add up a step's sums over the ranks, and agree on signals and a checkpoint. Collective.

        One message carries all of it, so that the agreement costs no round trip of its own.
        """
        votes = self._votes(checkpoint_due=self.wants_checkpoint())
        # `new_tensor` would wait for a GPU, as it copies from the CPU. Filling does not.
        mine = torch.cat([sums, *(sums.new_full((1,), vote) for vote in votes)])
        totals: list[float] = strategy.reduce(mine, reduce_op="sum").tolist()
        counted = Votes(*totals[len(sums) :])
        self.checkpoint_due = counted.checkpoint_due > 0
        self.agreed = counted.winner()
        return totals[: len(sums)]

    def agree_in_probe(self, trainer: Trainer) -> bool:
        """Agree whether a signal interrupts the current loss probe. Collective."""
        if self.interrupted:
            return True
        counted = self._votes()

        # One rank alone needs no tensor, which on a GPU would be a wait for each batch.
        if trainer.world_size > 1:
            mine = torch.tensor(counted, device=trainer.strategy.root_device)
            counted = Votes(*trainer.strategy.reduce(mine, reduce_op="sum").tolist())

        if found := counted.winner():
            self.agreed = found
            self.interrupted = True
        return self.interrupted

    def _votes(self, checkpoint_due: bool = False) -> Votes:
        own = self.own()
        return Votes(
            checkpoint_due=float(checkpoint_due),
            sigint=float(own == signal.SIGINT),
            sigterm=float(own == signal.SIGTERM),
        )

    def leave_together(self) -> NoReturn:
        """Raise SystemExit with the shell's number for the signal that the ranks agreed on."""
        assert self.agreed is not None
        raise SystemExit(128 + self.agreed)

    def leave_if_noted(self) -> None:
        """Raise SystemExit for a signal that this rank noted when no step was left to stop at."""
        if self.noted is not None:
            raise SystemExit(128 + self.noted)
