"""The callback that makes a run listen to signals."""

from lightning.pytorch import Trainer

from sft.data.datamodule import InstructionData
from sft.training.callback import RunCallback
from sft.training.module import InstructionTuner


class Interruption(RunCallback):
    """Makes the run note SIGINT and SIGTERM while it trains (see `signals.py`).

    Lightning's own handler of SIGTERM talks to the other ranks inside the handler, where they do
    not listen (pytorch-lightning#20806). It is set up before training starts, so it can be
    replaced only then; Lightning itself puts the first handlers back at the end.
    """

    def at_train_start(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData
    ) -> None:
        module.signals.listen()
