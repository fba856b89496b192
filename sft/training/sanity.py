"""The check before the first step: do the weights know the language they are to be tuned in?"""

import logging
import math
from typing import Any

from lightning.pytorch import Trainer

from sft.data.datamodule import InstructionData
from sft.errors import InputError, counted
from sft.objective import CrossEntropy
from sft.training.callback import RunCallback
from sft.training.module import InstructionTuner

log = logging.getLogger(__name__)

# The largest loss that passes, as a share of the loss of a uniform guess, ln(vocabulary). A
# pretrained model lies far below it; random or wrongly mapped weights do not get below it.
HIGHEST = 0.9


class SanityGate(RunCallback):
    """Refuses weights that do no better over the answers than a guess.

    Raises:
        InputError: over the answers of the first batches, the loss is HIGHEST times the loss of a
            guess, or more.
    """

    def __init__(self, batches: int, allow_untrained: bool) -> None:
        self.batches = batches
        self.allow_untrained = allow_untrained
        self.loss: float | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"loss": self.loss}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loss = state["loss"]

    def at_train_start(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData
    ) -> None:
        if trainer.global_step:
            return
        batches = data.first_batches("train", self.batches, mask_prompt=True)
        self.loss = module.mean_loss(batches, CrossEntropy(module.model))
        if module.signals.interrupted:
            return

        guess = math.log(module.model.config.vocab_size)
        log.info(
            f"before training: cross-entropy {self.loss:.3f} over the answers in "
            f"{counted(len(batches), 'batch', 'batches')} of train (a guess among all words: "
            f"{guess:.3f})"
        )
        # A loss of NaN is refused too.
        passes = self.loss < HIGHEST * guess
        if not passes and not self.allow_untrained:
            raise InputError(
                f"model.checkpoint: the untouched model's loss over the answers is "
                f"{self.loss:.2f}, expected less than {HIGHEST} ln(vocabulary) = "
                f"{HIGHEST * guess:.2f}. The weights do not fit the tokenizer, were never "
                "trained, or never on such text (gpt2-nano only knows its toy world: take a "
                "larger model=). To train nevertheless, set model.allow_untrained=true"
            )
