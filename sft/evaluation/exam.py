"""One model's part of an evaluation: the records in its tokens, its losses on them, its answers and their scores."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from sft.config import DataConfig, InputError
from sft.data.dataset import Examples, encode_splits
from sft.data.prompt import prompt_tokens
from sft.data.records import Record
from sft.evaluation.answers import Answer, AnswerFile, Decoding, answer_all
from sft.evaluation.loss import Losses, losses
from sft.evaluation.metrics import Scores, score
from sft.gpt2.checkpoint import Pretrained, load_pretrained
from sft.gpt2.device import DTYPES, Precision
from sft.gpt2.model import GPT


@dataclass(frozen=True)
class Exam:
    """The records, as one model reads them."""

    name: str  # "tuned" or "base"
    checkpoint: Pretrained  # checked, not in memory
    records: list[Record]
    prompts: list[list[int]]
    examples: Examples
    training: list[Record]  # the model was trained on; its losses on them are taken
    training_examples: Examples


@dataclass(frozen=True)
class Result:
    """What one model gave: its losses, and for each record an answer and that answer's scores."""

    checkpoint: Pretrained
    examples: Examples
    losses: Losses
    training: Losses
    answers: list[Answer]
    scores: list[Scores]
    seconds: float

    def answer_losses(self) -> list[tuple[float | None, int]]:
        """For each record the mean loss over its expected answer, in nats, and the number of tokens; (None, 0) for a
        record that was dropped."""
        sums, counts = self.losses.answer_sums, self.losses.answer_tokens
        rows = dict(zip(self.examples.records.tolist(), zip(sums.tolist(), counts.tolist(), strict=True), strict=True))
        found = (rows.get(record, (0.0, 0)) for record in range(len(self.answers)))
        return [(total / count if count else None, int(count)) for total, count in found]


def prepare(
    name: str,
    checkpoint: Pretrained,
    records: list[Record],
    template: str,
    data: DataConfig,
    split: str,
    training: Sequence[Record] = (),
) -> Exam:
    """Put the records into a model's tokens.

    Raises:
        InputError: a prompt is empty or longer than the model's context, by record number (from 1) in the split; or
            what `encode_splits` raises.
    """
    context, tokenizer = checkpoint.model.config.n_positions, checkpoint.tokenizer
    prompts = [prompt_tokens(template, record, tokenizer) for record in records]
    for number, (record, prompt) in enumerate(zip(records, prompts, strict=True), 1):
        if not 0 < len(prompt) <= context:
            raise InputError(
                f"record {number} of the {split} split ({record.instruction[:40]!r}): its prompt has {len(prompt)} "
                f"tokens, expected 1 to {context}, the context of {checkpoint.source}; shorten the record"
            )
    parts = {split: records, "training": list(training)}
    splits = encode_splits(parts, template, tokenizer, data.max_length, context, data.mask_prompt)
    return Exam(
        name, checkpoint, records, prompts, splits[split].examples, parts["training"], splits["training"].examples
    )


def take(
    exam: Exam, device: str, precision: Precision, decoding: Decoding, file: AnswerFile, batch_size: int
) -> Result:
    """Load the model and have it examined. It is out of memory again when this returns.

    Losses are taken as training takes them: fp32 weights, lower precisions by autocast. Then the weights themselves are
    converted for decoding, whose time goes into reading all of them for every token.
    """
    checkpoint = exam.checkpoint
    model = load_pretrained(checkpoint.source, checkpoint.revision, device=device).model.eval()

    def answers() -> list[Answer]:
        model.to(DTYPES[precision])
        return answer_all(model, checkpoint, exam.prompts, decoding, file, batch_size, f"{exam.name} answers")

    return examine(exam, model, precision, batch_size, answers)


def examine(
    exam: Exam, model: GPT, precision: Precision, batch_size: int, answers: Callable[[], list[Answer]]
) -> Result:
    """The losses of a model that is in memory, and the scores of the answers, which are asked for afterwards."""
    began = time.perf_counter()
    found = losses(model, exam.examples, batch_size, precision, f"{exam.name} loss")
    training = losses(model, exam.training_examples, batch_size, precision, f"{exam.name} loss on training records")
    said = answers()
    scores = _scores(said, exam.records)
    return Result(exam.checkpoint, exam.examples, found, training, said, scores, time.perf_counter() - began)


def noisiest(exam: Exam, result: Result, count: int = 20) -> list[dict[str, Any]]:
    """The training records with the highest loss per token of their answer, in nats, the highest first; `record` is
    the number in the split, from 1. Wrong and unusual answers are found here."""
    means = result.training.answer_sums / np.maximum(result.training.answer_tokens, 1)
    rows = np.argsort(-means, kind="stable")[:count]
    numbers = exam.training_examples.records[rows].tolist()
    return [
        {"record": number + 1, "loss": loss, **asdict(exam.training[number])}
        for number, loss in zip(numbers, means[rows].tolist(), strict=True)
    ]


def _scores(answers: list[Answer], records: list[Record]) -> list[Scores]:
    pairs = tqdm(zip(answers, records, strict=True), desc="scores", total=len(records), leave=False)
    return [score(answer.text, record.output) for answer, record in pairs]
