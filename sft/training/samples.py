"""Sample answers, for a look at what the model learns."""

import logging

import tiktoken
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from sft.data.datamodule import InstructionData
from sft.data.loop_state import epochs_done
from sft.data.prompt import prompt_tokens
from sft.gpt2.generate import complete
from sft.gpt2.tokenizer import decode
from sft.training.callback import RunCallback
from sft.training.decoding import decoding
from sft.training.module import InstructionTuner
from sft.training.sharding import unsharded_model

log = logging.getLogger(__name__)


class SampleAnswer(RunCallback):
    """Answers the first validation instruction before training and after each epoch.

    Args:
        compiled: the layers are compiled for training.
    """

    def __init__(
        self,
        template: str,
        tokenizer: tiktoken.Encoding,
        compiled: bool,
        max_new_tokens: int = 64,
    ) -> None:
        self.template = template
        self.tokenizer = tokenizer
        self.compiled = compiled
        self.max_new_tokens = max_new_tokens

    def at_train_start(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData
    ) -> None:
        if not trainer.global_step:
            self._answer(trainer, module, data, "before training")

    def after_epoch(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData
    ) -> None:
        self._answer(trainer, module, data, f"after epoch {epochs_done(trainer):g}")

    def _answer(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData, when: str
    ) -> None:
        record = data.splits["validation"].first
        if not record:
            return
        prompt = prompt_tokens(self.template, record, self.tokenizer)

        # Gathering a sharded model is a collective, so every rank comes this far.
        model = unsharded_model(module.model)
        if not trainer.is_global_zero or not 0 < len(prompt) < model.config.n_positions:
            return

        model.to(module.device).eval()
        eos = self.tokenizer.eot_token
        with decoding(trainer, self.compiled):
            [answer] = complete(model, [prompt], self.max_new_tokens, eos_id=eos, slots=1)
        model.train()

        text = decode(self.tokenizer, answer.tokens)
        question = f"{record.instruction} {record.input}"
        log.info(f"{when}: {question}".rstrip() + f"\n    answer: {text!r}")
        for tracker in trainer.loggers:
            if isinstance(tracker, TensorBoardLogger):
                shown = f"{record.instruction}\n\n{text}"
                tracker.experiment.add_text("answer", shown, trainer.global_step)
