"""What happens around the optimizer steps: the check before the first, checkpoints, sample answers."""

import dataclasses
import logging
import math
import os
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import tiktoken
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from sft.config import InputError, TrainConfig
from sft.data.prompt import render
from sft.gpt2.generate import complete
from sft.gpt2.model import GPT
from sft.gpt2.tokenizer import decode
from sft.shell import setting
from sft.training.checkpoints import last
from sft.training.interruption import Interruption
from sft.training.metrics import data_of, epochs_done, has_validation, stepped
from sft.training.module import InstructionTuner
from sft.training.sharding import unsharded_model

log = logging.getLogger(__name__)


class SanityGate(Callback):
    """Before the first step: do the weights know the language that they are about to be tuned in?

    A pretrained model's loss over the answers lies far below ln(V), that of a uniform guess among V words; random or
    mismapped weights do not get below it.

    Raises:
        InputError: the loss over the answers of the first batches is at or above 0.9 ln(V).
    """

    def __init__(self, batches: int, allow_untrained: bool) -> None:
        self.batches, self.allow_untrained = batches, allow_untrained
        self.loss: float | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"loss": self.loss}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loss = state["loss"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step:
            return
        assert isinstance(pl_module, InstructionTuner)
        data = data_of(trainer)
        self.loss = pl_module.mean_loss(data.first_batches("train", self.batches, mask_prompt=True))
        if pl_module.cut:
            return
        guess = math.log(pl_module.model.config.vocab_size)
        log.info(f"before training: loss {self.loss:.3f} over the answers (a guess among all words: {guess:.3f})")
        if not self.loss < 0.9 * guess and not self.allow_untrained:
            raise InputError(
                f"model.checkpoint: the untouched model's loss over the answers is {self.loss:.2f}, expected less than "
                f"0.9 ln(vocabulary) = {0.9 * guess:.2f}: the weights do not fit the tokenizer, were never trained, or "
                "never on text like this (gpt2-nano knows its own small world alone: take a larger model=); to train "
                "nevertheless, set model.allow_untrained=true"
            )


class RunFolder(Callback):
    """Keeps a run's folder up to date: the link to the newest run, the resumable checkpoint, the best weights.

    Args:
        made_of: hashes of what the run began with, kept in its checkpoints.
        save_model: writes a model as `model/`; called on rank 0 when the validation loss has improved, or at the end
            where there is no validation.
        latest: the link that is turned to `folder` once training begins.
    """

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        made_of: dict[str, str],
        save_model: Callable[[GPT], None],
        interruption: Interruption,
        latest: Path,
    ) -> None:
        self.folder, self.config, self.made_of = folder, config, made_of
        self.save_model, self.interruption, self.latest = save_model, interruption, latest
        self.best = float("inf")  # validation loss, in nats
        self._saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._keep_if_best(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, InstructionTuner)
        if pl_module.cut:
            self._leave(trainer, pl_module.agreed[1:])
        self._keep_if_best(trainer, pl_module)  # in the validation that was cut off, and now caught up on
        if trainer.is_global_zero:
            (self.folder / "summary.json").unlink(missing_ok=True)  # of a run that is now going on
            point(self.latest, self.folder)
        pl_module.wishes = lambda: [float(trainer.is_global_zero and self._is_due()), *pl_module.signals()]
        self._saved = time.monotonic()

    def _is_due(self) -> bool:
        minutes = self.config.checkpoint.minutes
        return minutes is not None and time.monotonic() - self._saved >= 60 * minutes

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = dataclasses.asdict(self.config)
        checkpoint["made_of"] = self.made_of

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The last of `max_steps` may lie inside an epoch: stop there. Lightning goes on with the validation."""
        assert isinstance(pl_module, InstructionTuner)
        if not stepped(trainer, batch_idx):
            return
        due, *asked = pl_module.agreed
        every = self.config.checkpoint.every
        if trainer.global_step >= pl_module.total_steps:
            trainer.should_stop = True
            if not has_validation(trainer):
                self._save_inside_epoch(trainer)
        elif due or any(asked) or (every and trainer.global_step % every == 0):
            self._save_inside_epoch(trainer)
            if any(asked) and not _at_epoch_end(trainer):
                self._leave(trainer, asked)

    def _leave(self, trainer: Trainer, asked: list[float]) -> None:
        """All ranks together, after a checkpoint."""
        number = signal.SIGINT if asked[0] else signal.SIGTERM
        resume = setting("resume", os.path.relpath(self.folder))
        where = f"after step {trainer.global_step}; python train.py {resume} goes on"
        log.info(f"{number.name}: stopped " + (where if trainer.global_step else "before the first step"))
        self.interruption.leave(number)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._keep_if_best(trainer, pl_module)
        self._save_inside_epoch(trainer)

    def _keep_if_best(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, InstructionTuner)
        if pl_module.validation_loss < self.best:
            self.best = pl_module.validation_loss
            self._write_model(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, InstructionTuner)
        loss, asked = pl_module.validation_loss, pl_module.agreed[1:]
        if not pl_module.cut:
            log.info(f"epoch {epochs_done(trainer):g}: validation loss " + ("-" if math.isnan(loss) else f"{loss:.4f}"))
        if _at_epoch_end(trainer):
            self._save(trainer)
        if pl_module.cut or (any(asked) and trainer.global_step < pl_module.total_steps):
            self._leave(trainer, asked)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, InstructionTuner)
        if self.best == float("inf"):
            self._write_model(trainer, pl_module)

    def _save_inside_epoch(self, trainer: Trainer) -> None:
        """An epoch's end has its own time to save: when Lightning counts the epoch as done."""
        if not _at_epoch_end(trainer):
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(last(self.folder))
        self._saved = time.monotonic()

    def _write_model(self, trainer: Trainer, pl_module: InstructionTuner) -> None:
        """The weights as they stand; all ranks together."""
        model = unsharded_model(pl_module.model)
        if trainer.is_global_zero:
            self.save_model(model)
        trainer.strategy.barrier()


def _at_epoch_end(trainer: Trainer) -> bool:
    return trainer.fit_loop.epoch_loop.batch_progress.is_last_batch


def point(link: Path, folder: Path) -> None:
    """Make `link` lead to `folder`, in one move; something that is no link is left alone."""
    if link.exists() and not link.is_symlink():
        log.warning(f"{link} is not a link, so it stays as it is")
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    fresh = link.with_name(f".{link.name}-{os.getpid()}")
    fresh.symlink_to(os.path.relpath(folder.resolve(), link.parent.resolve()), target_is_directory=True)
    os.replace(fresh, link)


class SampleAnswer(Callback):
    """Answers the first validation instruction before training and after each epoch."""

    def __init__(self, template: str, tokenizer: tiktoken.Encoding, compiled: bool, max_new_tokens: int = 64) -> None:
        self.template, self.tokenizer, self.max_new_tokens = template, tokenizer, max_new_tokens
        self.compiled = compiled  # then not for decoding: every layer's cache would have the layers compiled anew

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.global_step:
            self._answer(trainer, pl_module, "before training")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._answer(trainer, pl_module, f"after epoch {epochs_done(trainer):g}")

    def _answer(self, trainer: Trainer, pl_module: LightningModule, when: str) -> None:
        assert isinstance(pl_module, InstructionTuner)
        data = data_of(trainer)
        record = data.splits["validation"].first
        if not record:
            return
        prompt, model = self.tokenizer.encode_ordinary(render(self.template, record)), unsharded_model(pl_module.model)
        if not trainer.is_global_zero or not 0 < len(prompt) < model.config.n_positions:
            return
        model.to(pl_module.device).eval()
        eager = torch.compiler.set_stance("force_eager") if self.compiled else nullcontext()
        with trainer.precision_plugin.val_step_context(), eager:
            [answer] = complete(model, [prompt], self.max_new_tokens, eos_id=self.tokenizer.eot_token, slots=1)
        model.train()
        text = decode(self.tokenizer, answer.tokens)
        log.info(f"{when}: {record.instruction} {record.input}".rstrip() + f"\n    answer: {text!r}")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("answer", f"{record.instruction}\n\n{text}", trainer.global_step)


class EmptyCache(Callback):
    """On MPS, memory grows with the number of different shapes (pytorch#132596): hand it back now and then."""

    def __init__(self, every: int = 50) -> None:
        self.every = every  # optimizer steps

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if stepped(trainer, batch_idx) and trainer.global_step % self.every == 0:
            torch.mps.empty_cache()
