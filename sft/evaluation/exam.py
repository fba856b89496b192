"""One model's part of an evaluation: the records in its tokens, its losses on them, its answers and their scores."""

import time
from dataclasses import dataclass

from tqdm import tqdm

from sft.config import DataConfig, InputError
from sft.data.dataset import Examples, encode_splits
from sft.data.prompt import render
from sft.data.records import Record
from sft.evaluation.answers import Answer, AnswerFile, Decoding, answer_all
from sft.evaluation.loss import DTYPES, mean_loss
from sft.evaluation.metrics import Scores, score
from sft.gpt2.checkpoint import Pretrained, load_pretrained
from sft.gpt2.device import Precision


@dataclass(frozen=True)
class Exam:
    """The records, as one model reads them."""

    name: str  # "tuned" or "base"
    checkpoint: Pretrained  # checked, not in memory
    records: list[Record]
    prompts: list[list[int]]
    examples: Examples


@dataclass(frozen=True)
class Result:
    """What one model gave: its losses, in nats per token, and for each record an answer and its scores."""

    checkpoint: Pretrained
    loss: float  # over the expected answers
    loss_as_trained: float  # over the prompts too, if the data's mask_prompt is false
    answers: list[Answer]
    scores: list[Scores]
    seconds: float


def prepare(
    name: str, checkpoint: Pretrained, records: list[Record], template: str, data: DataConfig, split: str
) -> Exam:
    """Put the records into a model's tokens.

    Raises:
        InputError: a prompt is empty or longer than the model's context, by record number (from 1) in the split; or
            what `encode_splits` raises.
    """
    context, tokenizer = checkpoint.model.config.n_positions, checkpoint.tokenizer
    prompts = tokenizer.encode_ordinary_batch([render(template, record) for record in records])
    for number, (record, prompt) in enumerate(zip(records, prompts, strict=True), 1):
        if not 0 < len(prompt) <= context:
            raise InputError(
                f"record {number} of the {split} split ({record.instruction[:40]!r}): its prompt has {len(prompt)} "
                f"tokens, expected 1 to {context}, the context of {checkpoint.source}; shorten the record"
            )
    parts = {split: records}
    splits = encode_splits(parts, template, tokenizer, data.max_length, context, data.mask_prompt)
    return Exam(name, checkpoint, records, prompts, splits[split].examples)


def take(
    exam: Exam, device: str, precision: Precision, decoding: Decoding, file: AnswerFile, batch_size: int
) -> Result:
    """Load the model and have it examined. It is out of memory again when this returns.

    Losses are taken as training takes them: fp32 weights, lower precisions by autocast. Then the weights themselves are
    converted for decoding, whose time goes into reading all of them for every token.
    """
    began = time.perf_counter()
    checkpoint = exam.checkpoint
    model = load_pretrained(checkpoint.source, checkpoint.revision, device=device).model.eval()
    loss = as_trained = mean_loss(model, exam.examples, batch_size, precision, mask_prompt=True)
    if not exam.examples.mask_prompt:
        as_trained = mean_loss(model, exam.examples, batch_size, precision, mask_prompt=False)
    model.to(DTYPES[precision])
    answers = answer_all(model, checkpoint, exam.prompts, decoding, file, batch_size, f"{exam.name} answers")
    scores = _scores(answers, exam.records)
    return Result(checkpoint, loss, as_trained, answers, scores, time.perf_counter() - began)


def _scores(answers: list[Answer], records: list[Record]) -> list[Scores]:
    pairs = tqdm(zip(answers, records, strict=True), desc="scores", total=len(records), leave=False)
    return [score(answer.text, record.output) for answer, record in pairs]
