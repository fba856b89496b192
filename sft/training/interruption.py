"""SIGINT and SIGTERM: they end a run after the optimizer step at hand, or within a look at the losses, with a
checkpoint, on all ranks together."""

import os
import signal
import threading
import time
from types import FrameType

from lightning.pytorch import Callback, LightningModule, Trainer

from sft.training.module import InstructionTuner

TWICE = 1.0  # seconds; a launcher hands its processes the Ctrl-C that the terminal gave them too


class Interruption(Callback):
    """Notes the signals that this process gets; a second Ctrl-C leaves at once.

    Lightning's own handler of SIGTERM speaks to the other ranks inside the handler, where they do not listen
    (pytorch-lightning#20806); it is replaced while training goes on, and put back by Lightning itself.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._noted = 0.0
        self._launcher = os.getppid() if "LOCAL_RANK" in os.environ else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, InstructionTuner)
        pl_module.signals = self.wishes
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._note)
            signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and self.signal == signal.SIGINT and now - self._noted > TWICE:
            os._exit(128 + number)
        if self.signal is None:
            self.signal, self._noted = signal.Signals(number), now

    def wishes(self) -> list[float]:
        """Whether this process was asked to stop by SIGINT, and by SIGTERM; a rank stops too when its launcher died."""
        if self.signal is None and self._launcher not in (None, os.getppid()):
            self.signal = signal.SIGTERM
        return [float(self.signal == signal.SIGINT), float(self.signal == signal.SIGTERM)]

    def leave(self, agreed: signal.Signals | None = None) -> None:
        """Raises SystemExit with the shell's number for the signal that all agreed on, or that this process noted."""
        if number := agreed or self.signal:
            raise SystemExit(128 + number)
