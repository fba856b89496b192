"""Answers to validation records while the model trains, measured as an evaluation does."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import tiktoken
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from sft.config.schema import GenerateConfig
from sft.data.prompt import prompt_tokens
from sft.data.records import Record
from sft.errors import InputError, counted
from sft.gpt2.generate import complete
from sft.gpt2.model import GPT
from sft.gpt2.tokenizer import decode
from sft.metrics import BY_NAME, TEXT_METRICS, Scores, score
from sft.training.decoding import decoding
from sft.training.module import InstructionTuner
from sft.training.sharding import unsharded_model
from sft.training.trackers import RemoteLogger

log = logging.getLogger(__name__)

# Records answered together.
SLOTS = 32

# The columns of the table of answers that trackers get.
TABLE = ("question", "expected", "answer", *TEXT_METRICS)


@dataclass(frozen=True)
class Measured:
    """An answer, and the metrics of its text."""

    record: Record
    text: str
    scores: Scores


class ValidationAnswers:
    """Answer the same validation records at each call.

    The likeliest token is taken each time, and an answer has as many tokens at most as in an
    evaluation. So a mean is that of `evaluate.py split=validation limit=N`, but for rounding in
    half precision.

    Args:
        records: a record whose prompt is too long for the model is left out.
        compiled: the layers are compiled for training.

    Raises:
        InputError: no record is left.
    """

    def __init__(
        self,
        records: Sequence[Record],
        template: str,
        tokenizer: tiktoken.Encoding,
        context: int,
        compiled: bool,
    ) -> None:
        self.tokenizer = tokenizer
        self.compiled = compiled
        self.asked: list[tuple[Record, list[int]]] = []
        for record in records:
            prompt = prompt_tokens(template, record, tokenizer)
            if 0 < len(prompt) < context:
                self.asked.append((record, prompt))
        if not self.asked:
            raise InputError(
                "eval.answers: there is no validation record to answer; raise the third share of "
                "data.split="
            )

    def means(self, trainer: Trainer, module: InstructionTuner, note: bool = True) -> Scores:
        """Answer the records and return the mean of each metric; empty if a signal came.

        Collective: rank 0 answers, and the others wait for its numbers.

        Args:
            note: show the means, and give the texts to the trackers.
        """
        model = unsharded_model(module.model)
        found = self._answer(trainer, module, model) if trainer.is_global_zero else []
        if module.signals.agree_in_probe(trainer):
            return {}

        means: Scores = {}
        if trainer.is_global_zero:
            means = {name: fmean(one.scores[name] for one in found) for name in TEXT_METRICS}
        means = trainer.strategy.broadcast(means)
        if note and trainer.is_global_zero:
            shown = ", ".join(f"{BY_NAME[name].label} {value:.3f}" for name, value in means.items())
            log.info(
                f"step {trainer.global_step}: {counted(len(found), 'validation answer')}, {shown}"
            )
            self._track(trainer, found)
        return means

    def _answer(self, trainer: Trainer, module: InstructionTuner, model: GPT) -> list[Measured]:
        """Answer the records on this rank. A signal ends this early."""
        was_training = module.training
        model.to(module.device).eval()
        limit = GenerateConfig().max_new_tokens
        prompts = [prompt for _, prompt in self.asked]
        texts: dict[int, str] = {}
        with decoding(trainer, self.compiled):
            completions = complete(
                model, prompts, limit, eos_id=self.tokenizer.eot_token, slots=SLOTS
            )
            for one in completions:
                texts[one.index] = decode(self.tokenizer, one.tokens)
                if module.signals.own():
                    break
        model.train(was_training)

        found = []
        for index, text in sorted(texts.items()):
            record = self.asked[index][0]
            found.append(Measured(record, text, score(text, record.output)))
        return found

    def _track(self, trainer: Trainer, found: Sequence[Measured]) -> None:
        rows: list[list[str | float]] = []
        for one in found:
            numbers = [one.scores[name] for name in TEXT_METRICS]
            rows.append([one.record.question, one.record.output, one.text.strip(), *numbers])
        for tracker in trainer.loggers:
            if isinstance(tracker, TensorBoardLogger):
                tracker.experiment.add_text("answers", _markdown(rows), trainer.global_step)
            elif isinstance(tracker, RemoteLogger):
                tracker.log_table("answers", TABLE, rows, trainer.global_step)


def _markdown(rows: Sequence[Sequence[str | float]]) -> str:
    """Return a table as TensorBoard shows it."""
    lines = [" | ".join(TABLE), " | ".join("---" for _ in TABLE)]
    for row in rows:
        cells = [f"{cell:.3f}" if isinstance(cell, float) else _cell(str(cell)) for cell in row]
        lines.append(" | ".join(cells))
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|") or "(nothing)"
