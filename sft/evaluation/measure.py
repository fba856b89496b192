"""One model's part of an evaluation: its losses on the records, its answers, and their metrics."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from sft.bars import Bar
from sft.checkpoint.folder import Pretrained, load_pretrained
from sft.config.schema import DataConfig
from sft.data.batches import Examples, encode, longest
from sft.data.prompt import prompt_tokens
from sft.data.records import Record
from sft.device import DTYPES, AnswerPrecision
from sft.errors import InputError
from sft.evaluation.answers import Answer, AnswerFile, Decoding, answer_all
from sft.evaluation.loss import Losses, losses
from sft.gpt2.frozen import freeze, step_bytes
from sft.gpt2.generate import Timing
from sft.gpt2.model import GPT
from sft.metrics import Scores, score
from sft.scoring.results import NoisyRecord

# Why a record cannot be asked: its prompt is longer than the context, or has no token.
TOO_LONG = "too long"
EMPTY = "empty"


@dataclass(frozen=True)
class EncodedRecords:
    """The records in one model's tokens.

    Attributes:
        name: `tuned` or `base`.
        checkpoint: the model, checked and not in memory.
        statuses: for each record why it cannot be asked; None: it can.
        prompts: of the records that can be asked, in their order.
        examples: prompts with their expected answers, for the losses.
        training: records that the model was trained on; their losses are taken too.
    """

    name: str
    checkpoint: Pretrained
    records: list[Record]
    statuses: list[str | None]
    prompts: list[list[int]]
    examples: Examples
    training: list[Record]
    training_examples: Examples

    def unasked(self) -> list[str]:
        """Return a line for each reason why records cannot be asked, with their numbers from 1."""
        numbers: dict[str, list[str]] = {}
        for number, status in enumerate(self.statuses, 1):
            if status:
                numbers.setdefault(status, []).append(str(number))

        lines = []
        for status, found in numbers.items():
            shown = ", ".join(found[:10])
            if len(found) > 10:
                shown += f" and {len(found) - 10} more"
            lines.append(f"not asked, because the prompt is {status}: record {shown}")
        return lines


@dataclass(frozen=True)
class ModelResult:
    """The losses of one model, and for each record its answer and the answer's metrics.

    Attributes:
        statuses: for each record why it was not asked; None: it was.
        answers: None for a record that was not asked.
        scores: the metrics of the answers; None for a record that was not asked.
        timing: of the answers that this process made; those in the file already took no time.
        step_bytes: the bytes of the weights that a step of decoding reads.
    """

    checkpoint: Pretrained
    examples: Examples
    losses: Losses
    training: Losses
    statuses: list[str | None]
    answers: list[Answer | None]
    scores: list[Scores | None]
    seconds: float
    timing: Timing = field(default_factory=Timing)
    step_bytes: int = 0

    def answer_losses(self) -> list[tuple[float | None, int]]:
        """Return each record's mean loss over its expected answer, in nats, and its token count.

        A record that was dropped, as too long for the context, has (None, 0).
        """
        found: list[tuple[float | None, int]] = [(None, 0)] * len(self.answers)
        sums = self.losses.answer_sums.tolist()
        counts = self.losses.answer_tokens.tolist()
        for record, total, count in zip(self.examples.records.tolist(), sums, counts, strict=True):
            found[record] = (total / count if count else None, int(count))
        return found


def encode_records(
    name: str,
    checkpoint: Pretrained,
    records: list[Record],
    template: str,
    data: DataConfig,
    split: str,
    training: Sequence[Record] = (),
) -> EncodedRecords:
    """Encode the records in a model's tokens.

    A record whose prompt is empty or longer than the context is not asked.

    Raises:
        InputError: no record can be asked; or data.max_length is more than the context.
    """
    context = checkpoint.model.config.n_positions
    tokenizer = checkpoint.tokenizer

    statuses: list[str | None] = []
    prompts = []
    sizes = []
    for record in records:
        prompt = prompt_tokens(template, record, tokenizer)
        sizes.append(len(prompt))
        if not prompt:
            statuses.append(EMPTY)
        elif len(prompt) > context:
            statuses.append(TOO_LONG)
        else:
            statuses.append(None)
            prompts.append(prompt)
    if not prompts:
        raise InputError(
            f"split: none of the {len(records)} records taken of {split} can be asked; their "
            f"prompts have {min(sizes)} to {max(sizes)} tokens, expected 1 to {context}, the "
            f"context of {checkpoint.source}; take other records"
        )

    max_length = longest(data.max_length, context)
    return EncodedRecords(
        name,
        checkpoint,
        records,
        statuses,
        prompts,
        examples=encode(records, template, tokenizer, max_length, data.answers_alone),
        training=list(training),
        training_examples=encode(training, template, tokenizer, max_length, data.answers_alone),
    )


def load_and_measure(
    encoded: EncodedRecords,
    device: str,
    precision: AnswerPrecision,
    decoding: Decoding,
    file: AnswerFile,
    batch_size: int,
) -> ModelResult:
    """Load the model and measure it. Its memory is free again when this returns.

    Losses are measured as in a training of the same precision: fp32 weights, with autocast for a
    lower one. Then the weights themselves are converted. Decoding spends its time on reading them
    for every token. With int8, both are of the converted weights, as the loss is to show what they
    cost.
    """
    checkpoint = encoded.checkpoint
    model = load_pretrained(checkpoint.source, checkpoint.revision, device=device).model.eval()
    if precision == "int8":
        freeze(model.to(DTYPES[precision]), int8=True)

    timing = Timing()

    def answers() -> list[Answer]:
        freeze(model.to(DTYPES[precision]))
        label = f"{encoded.name} answers"
        return answer_all(
            model, checkpoint, encoded.prompts, decoding, file, batch_size, label, timing
        )

    result = measure(encoded, model, precision, batch_size, answers)
    return replace(result, timing=timing, step_bytes=step_bytes(model))


def measure(
    encoded: EncodedRecords,
    model: GPT,
    precision: AnswerPrecision,
    batch_size: int,
    answers: Callable[[], list[Answer]],
) -> ModelResult:
    """Measure a model that is in memory: its losses, then the metrics of its answers.

    Args:
        answers: answers `encoded.prompts`. It is called after the losses are measured.
    """
    began = time.perf_counter()
    name = encoded.name
    found = losses(model, encoded.examples, batch_size, precision, f"{name} loss")
    training = losses(
        model,
        encoded.training_examples,
        batch_size,
        precision,
        f"{name} loss on training records",
    )

    # A record that was not asked has neither an answer nor metrics.
    given = iter(answers())
    answered = [next(given) if status is None else None for status in encoded.statuses]
    scores = []
    for answer, record in Bar(
        zip(answered, encoded.records, strict=True),
        desc="scores",
        total=len(answered),
        leave=False,
    ):
        scores.append(score(answer.text, record.output) if answer else None)
    seconds = time.perf_counter() - began
    return ModelResult(
        encoded.checkpoint,
        encoded.examples,
        found,
        training,
        encoded.statuses,
        answered,
        scores,
        seconds,
    )


def noisiest(encoded: EncodedRecords, result: ModelResult, count: int = 20) -> list[NoisyRecord]:
    """Return the training records with the highest loss per answer token, the highest first.

    Mistakes in the data show here.
    """
    means = result.training.answer_sums / np.maximum(result.training.answer_tokens, 1)
    rows = np.argsort(-means, kind="stable")[:count]
    indices = encoded.training_examples.records[rows].tolist()
    return [
        NoisyRecord(index + 1, loss, encoded.training[index].plain())
        for index, loss in zip(indices, means[rows].tolist(), strict=True)
    ]
