"""One model's part of an evaluation: the records in its tokens, its losses on them, its answers and their scores."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from sft.checkpoint.folder import Pretrained, load_pretrained
from sft.config.schema import DataConfig
from sft.data.batches import Examples, encode, longest
from sft.data.prompt import prompt_tokens
from sft.data.records import Record
from sft.device import DTYPES, Precision
from sft.errors import InputError
from sft.evaluation.answers import Answer, AnswerFile, Decoding, answer_all
from sft.evaluation.loss import Losses, losses
from sft.gpt2.model import GPT
from sft.scoring.metrics import Scores, score

TOO_LONG = "too long"  # of a prompt: longer than the model's context
EMPTY = "empty"  # of a prompt: without a token for the model to read


@dataclass(frozen=True)
class Exam:
    """The records, as one model reads them."""

    name: str  # "tuned" or "base"
    checkpoint: Pretrained  # checked, not in memory
    records: list[Record]
    statuses: list[str | None]  # for each record why it cannot be asked; None: it can
    prompts: list[list[int]]  # of the records that can be asked, in their order
    examples: Examples
    training: list[Record]  # the model was trained on; its losses on them are taken
    training_examples: Examples

    def unasked(self) -> list[str]:
        """A line for each reason why records cannot be asked, with their numbers from 1."""
        numbers: dict[str, list[str]] = {}
        for number, status in enumerate(self.statuses, 1):
            if status:
                numbers.setdefault(status, []).append(str(number))
        return [
            f"not asked, because the prompt is {status}: record "
            f"{', '.join(found[:10])}{f' and {len(found) - 10} more' * (len(found) > 10)}"
            for status, found in numbers.items()
        ]


@dataclass(frozen=True)
class Result:
    """What one model gave: its losses, and for each record that could be asked an answer and that answer's scores."""

    checkpoint: Pretrained
    examples: Examples
    losses: Losses
    training: Losses
    statuses: list[
        str | None
    ]  # for each record why it was not asked, and has neither; None: it was
    answers: list[Answer | None]
    scores: list[Scores | None]
    seconds: float

    def answer_losses(self) -> list[tuple[float | None, int]]:
        """For each record the mean loss over its expected answer, in nats, and the number of tokens; (None, 0) for a
        record that was dropped."""
        sums, counts = self.losses.answer_sums, self.losses.answer_tokens
        rows = dict(
            zip(
                self.examples.records.tolist(),
                zip(sums.tolist(), counts.tolist(), strict=True),
                strict=True,
            )
        )
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
    """Put the records into a model's tokens. A record whose prompt is empty or longer than the context stays unasked.

    Raises:
        InputError: no record can be asked; or data.max_length is more than the context.
    """
    context, tokenizer = checkpoint.model.config.n_positions, checkpoint.tokenizer
    prompts = [prompt_tokens(template, record, tokenizer) for record in records]
    statuses = [_status(len(prompt), context) for prompt in prompts]
    if all(statuses):
        sizes = sorted({len(prompt) for prompt in prompts})
        raise InputError(
            f"split: none of the {len(records)} records taken of {split} can be asked; their prompts have "
            f"{sizes[0]} to {sizes[-1]} tokens, expected 1 to {context}, the context of {checkpoint.source}; "
            "take other records"
        )
    max_length = longest(data.max_length, context)
    return Exam(
        name,
        checkpoint,
        records,
        statuses,
        [prompt for prompt, status in zip(prompts, statuses, strict=True) if status is None],
        encode(records, template, tokenizer, max_length, data.mask_prompt),
        list(training),
        encode(training, template, tokenizer, max_length, data.mask_prompt),
    )


def _status(tokens: int, context: int) -> str | None:
    if tokens > context:
        return TOO_LONG
    return None if tokens else EMPTY


def take(
    exam: Exam,
    device: str,
    precision: Precision,
    decoding: Decoding,
    file: AnswerFile,
    batch_size: int,
) -> Result:
    """Load the model and have it examined. It is out of memory again when this returns.

    Losses are taken as training takes them: fp32 weights, lower precisions by autocast. Then the weights themselves are
    converted for decoding, whose time goes into reading all of them for every token.
    """
    checkpoint = exam.checkpoint
    model = load_pretrained(checkpoint.source, checkpoint.revision, device=device).model.eval()

    def answers() -> list[Answer]:
        model.to(DTYPES[precision])
        return answer_all(
            model, checkpoint, exam.prompts, decoding, file, batch_size, f"{exam.name} answers"
        )

    return examine(exam, model, precision, batch_size, answers)


def examine(
    exam: Exam,
    model: GPT,
    precision: Precision,
    batch_size: int,
    answers: Callable[[], list[Answer]],
) -> Result:
    """The losses of a model that is in memory, and the scores of the answers, which are asked for afterwards."""
    began = time.perf_counter()
    found = losses(model, exam.examples, batch_size, precision, f"{exam.name} loss")
    training = losses(
        model,
        exam.training_examples,
        batch_size,
        precision,
        f"{exam.name} loss on training records",
    )
    given = iter(answers())
    said = [next(given) if status is None else None for status in exam.statuses]
    scores = _scores(said, exam.records)
    seconds = time.perf_counter() - began
    return Result(
        exam.checkpoint, exam.examples, found, training, exam.statuses, said, scores, seconds
    )


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


def _scores(answers: list[Answer | None], records: list[Record]) -> list[Scores | None]:
    pairs = tqdm(zip(answers, records, strict=True), desc="scores", total=len(records), leave=False)
    return [score(answer.text, record.output) if answer else None for answer, record in pairs]
