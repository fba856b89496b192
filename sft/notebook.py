"""The same parts for a notebook: train on a list of dicts, ask, measure. A record is a dict as in the data files.

Nothing is written but by `save`. Checkpoints, metrics and several devices are train.py's.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from sft.config import PROMPTS, DataConfig, InputError, TrainConfig
from sft.data.datamodule import InstructionData
from sft.data.dataset import Batch, encode_splits
from sft.data.prompt import chat_template, render
from sft.data.records import Record, checked_record
from sft.evaluation.aggregate import numbers
from sft.evaluation.answers import Answer
from sft.evaluation.exam import examine, prepare
from sft.evaluation.results import rows_of
from sft.gpt2.checkpoint import Pretrained, save_pretrained
from sft.gpt2.device import pick_device, pick_precision, row_multiple
from sft.gpt2.generate import complete, row_seeds
from sft.gpt2.sampling import Sampling
from sft.gpt2.tokenizer import decode
from sft.merge import from_dict
from sft.training.callback import RunCallback
from sft.training.module import InstructionTuner
from sft.training.progress import Progress
from sft.training.trainer import make_trainer


def finetune(
    gpt2: Pretrained,
    records: Sequence[dict[str, Any]],
    epochs: int = 2,
    batch_size: int = 8,
    lr: float = 5e-5,
    prompt: str = "alpaca",
    mask_prompt: bool = False,
    seed: int = 123,
    device: str = "auto",
    precision: str = "auto",
) -> list[float]:
    """Train a model in place, as train.py does with the settings of these names (conf/train.yaml, conf/data.yaml).

    Returns:
        The loss of each optimizer step, in nats per learned token.

    Raises:
        InputError: a record is none, by its number from 1, or a setting is out of its range.
    """
    settings = {"epochs": epochs, "batch_size": batch_size, "seed": seed, "device": device, "precision": precision}
    data_settings = {"prompt": prompt, "mask_prompt": mask_prompt}
    groups = {"model": {"checkpoint": gpt2.source}, "data": data_settings, "optim": {"lr": lr}, "eval": {}}
    config = from_dict(TrainConfig, groups | settings)
    device = pick_device(device)
    template, context = PROMPTS[prompt], gpt2.model.config.n_positions
    parts: dict[str, list[Record]] = {"train": _checked(records), "validation": []}
    splits = encode_splits(parts, template, gpt2.tokenizer, None, context, mask_prompt)
    data = InstructionData(splits, batch_size, seed=seed, multiple=row_multiple(device))
    module = InstructionTuner(gpt2.model, config.optim, data.plan(1).steps * epochs, seed=seed)
    losses = StepLosses()
    trainer = make_trainer(config, 1, device, pick_precision(precision, device), [Progress(), losses], logger=False)
    trainer.fit(module.train(), data)
    gpt2.prompt, gpt2.base, gpt2.sha256 = template or None, gpt2.source, ""  # no file's any more
    return losses.taken


def save(gpt2: Pretrained, folder: str | Path) -> None:
    """Keep a model with its prompt; the folder is as a run's `model/`, and errors are those of `save_pretrained`."""
    chat = chat_template(gpt2.prompt) if gpt2.prompt else None
    save_pretrained(gpt2.model, folder, gpt2.tokenizer, gpt2.prompt, gpt2.base, chat_template=chat)


def answer(
    gpt2: Pretrained,
    questions: str | Sequence[str | dict[str, Any]],
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 123,
    device: str = "auto",
) -> list[str]:
    """The model's answers to instructions, or to records, of which it sees instruction and input.

    Raises:
        InputError: a question is neither, by its number from 1.
        ValueError: a prompt is longer than the context, or a setting is out of its range.
    """
    if isinstance(questions, str):
        questions = [questions]
    asked = [{"instruction": one} if isinstance(one, str) else one for one in questions]
    complete_records = [{**one, "output": ""} if isinstance(one, dict) else one for one in asked]
    records = [checked_record(one, "questions", number) for number, one in enumerate(complete_records, 1)]
    template = gpt2.prompt or PROMPTS["alpaca"]
    prompts = [render(template, record) for record in records]
    tokens = gpt2.tokenizer.encode_ordinary_batch(prompts)
    return [said.text for said in _answers(gpt2, tokens, max_new_tokens, Sampling(temperature, top_k), seed, device)]


def evaluate(
    gpt2: Pretrained,
    records: Sequence[dict[str, Any]],
    max_new_tokens: int = 256,
    batch_size: int = 32,
    device: str = "auto",
) -> dict[str, Any]:
    """Greedy answers to the records, measured in fp32: means and 95% intervals, as evaluate.py's `summary.json`.

    Raises:
        InputError: a record is none, or its prompt is longer than the context, by its number from 1.
    """
    rows, greedy = _checked(records), Sampling()
    exam = prepare("tuned", gpt2, rows, gpt2.prompt or PROMPTS["alpaca"], DataConfig(), "given")
    gpt2.model.to(pick_device(device)).eval()
    result = examine(
        exam,
        gpt2.model,
        "32-true",
        batch_size,
        lambda: _answers(gpt2, exam.prompts, max_new_tokens, greedy, 0, device),
    )
    return numbers(rows_of(rows, {"tuned": result}, [None] * len(rows)), "tuned")


def _checked(records: Sequence[dict[str, Any]]) -> list[Record]:
    if isinstance(records, str) or not len(records):
        raise InputError(f"records: {records!r}; expected a list with at least one record")
    return [checked_record(item, "records", number) for number, item in enumerate(records, 1)]


def _answers(
    gpt2: Pretrained,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling,
    seed: int,
    device: str,
) -> list[Answer]:
    model, seeds = gpt2.model.to(pick_device(device)).eval(), row_seeds(seed, len(prompts))
    found = complete(model, prompts, max_new_tokens, sampling, gpt2.tokenizer.eot_token, seeds)
    said = sorted(found, key=lambda one: one.index)
    return [Answer(decode(gpt2.tokenizer, one.tokens), len(one.tokens), one.finish_reason) for one in said]


class StepLosses(RunCallback):
    """The loss of each optimizer step."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    def after_step(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData, batch: Batch
    ) -> None:
        self.taken.append(module.step_loss)
