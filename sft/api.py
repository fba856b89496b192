"""The same parts for a notebook: train on a list of dicts, ask, measure. A record is a dict as in the data files.

Records and questions come as a list, or as anything else that gives them one by one, as a generator does. A single
record, or a single question, stands for a list with it.

Nothing is written but by `save`. Checkpoints, metrics and several devices are train.py's.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from sft.checkpoint.folder import Pretrained, save_pretrained
from sft.config.loading import from_dict
from sft.config.schema import DataConfig, EvaluateConfig, TrainConfig
from sft.data.batches import Batch
from sft.data.datamodule import InstructionData
from sft.data.overview import unused_text
from sft.data.prompt import chat_template, template_of
from sft.data.records import Record, checked_record, count_unused
from sft.data.splits import encode_splits
from sft.device import pick_device, pick_precision
from sft.errors import InputError
from sft.evaluation.answers import Answer
from sft.evaluation.measure import EncodedRecords, encode_records, measure
from sft.evaluation.results import answer_results
from sft.gpt2.fast import row_multiple
from sft.gpt2.generate import complete, row_seeds
from sft.gpt2.sampling import Sampling
from sft.gpt2.tokenizer import decode
from sft.prompts import PROMPTS
from sft.scoring.aggregate import numbers
from sft.training.callback import RunCallback
from sft.training.module import InstructionTuner
from sft.training.progress import Progress
from sft.training.trainer import make_trainer

log = logging.getLogger(__name__)
Given = Mapping[str, Any]  # a record


def finetune(
    gpt2: Pretrained,
    records: Iterable[Given] | Given,
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
    _check_loaded(gpt2)
    settings = {
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "device": device,
        "precision": precision,
    }
    data_settings = {"prompt": prompt, "mask_prompt": mask_prompt}
    groups = {
        "model": {"checkpoint": gpt2.source},
        "data": data_settings,
        "optim": {"lr": lr},
        "eval": {},
    }
    config = from_dict(TrainConfig, groups | settings)
    device = pick_device(device)
    template, context = PROMPTS[prompt], gpt2.model.config.n_positions
    parts: dict[str, list[Record]] = {"train": _training(records), "validation": []}
    splits = encode_splits(parts, template, gpt2.tokenizer, None, context, mask_prompt)
    data = InstructionData(splits, batch_size, seed=seed, multiple=row_multiple(device))
    module = InstructionTuner(gpt2.model, config.optim, data.plan(1).steps * epochs, seed=seed)
    losses = StepLosses()
    trainer = make_trainer(
        config, 1, device, pick_precision(precision, device), [Progress(), losses], logger=False
    )
    trainer.fit(module.train(), data)
    gpt2.prompt, gpt2.base, gpt2.sha256 = template or None, gpt2.source, ""  # no file's any more
    gpt2.chat_template = None  # it was of the model before
    return losses.taken


def save(gpt2: Pretrained, folder: str | Path) -> None:
    """Keep a model with its prompt; the folder is as a run's `model/`, and errors are those of `save_pretrained`."""
    _check_loaded(gpt2)
    if not isinstance(folder, str | Path):
        raise InputError(f"folder: found {folder!r}, expected the path of a folder")
    chat = chat_template(gpt2.prompt) if gpt2.prompt else gpt2.chat_template
    save_pretrained(gpt2.model, folder, gpt2.tokenizer, gpt2.prompt, gpt2.base, chat_template=chat)


def answer(
    gpt2: Pretrained,
    questions: Iterable[str | Given] | str | Given,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 123,
    device: str = "auto",
) -> list[str | None]:
    """The model's answers to instructions, or to records, of which it sees instruction and input.

    Returns:
        A list with an answer to each question, also to a single one. It is None, with a warning, if the prompt is empty
        or longer than the context.

    Raises:
        InputError: a question is neither, by its number from 1; no question can be asked; or a setting is out of its
            range.
    """
    _check_loaded(gpt2)
    _check_settings(max_new_tokens, device, temperature=temperature, top_k=top_k, seed=seed)
    asked = [
        {"instruction": one} if isinstance(one, str) else one
        for one in _listed(questions, "questions")
    ]
    records = _checked(
        [{**one, "output": ""} if isinstance(one, Mapping) else one for one in asked], "questions"
    )
    if not records:
        return []
    encoded = encode_records("tuned", gpt2, records, _template(gpt2), DataConfig(), "questions")
    _warn_of_unasked(encoded)
    given = iter(
        _answers(gpt2, encoded.prompts, max_new_tokens, Sampling(temperature, top_k), seed, device)
    )
    return [None if status else next(given).text for status in encoded.statuses]


def evaluate(
    gpt2: Pretrained,
    records: Iterable[Given] | Given,
    max_new_tokens: int = 256,
    batch_size: int = 32,
    device: str = "auto",
) -> dict[str, Any]:
    """Greedy answers to the records, measured in fp32: means and 95% intervals, as evaluate.py's `summary.json`.

    A record whose prompt is empty or longer than the context has no part in them; `not_asked` counts these.

    Raises:
        InputError: a record is none, by its number from 1; none of them can be asked; or a setting is out of its range.
    """
    _check_loaded(gpt2)
    _check_settings(max_new_tokens, device, batch_size)
    rows, greedy = _training(records), Sampling()
    encoded = encode_records("tuned", gpt2, rows, _template(gpt2), DataConfig(), "records")
    _warn_of_unasked(encoded)
    gpt2.model.to(pick_device(device)).eval()
    result = measure(
        encoded,
        gpt2.model,
        "32-true",
        batch_size,
        lambda: _answers(gpt2, encoded.prompts, max_new_tokens, greedy, 0, device),
    )
    found: dict[str, Any] = {}
    for name, value in numbers(answer_results(result)).items():
        found |= value if name == "metrics" else {name: value}
    return found


def _template(gpt2: Pretrained) -> str:
    return (
        template_of(gpt2.source, gpt2.prompt, gpt2.chat_template, gpt2.names) or PROMPTS["alpaca"]
    )


def _warn_of_unasked(encoded: EncodedRecords) -> None:
    for line in encoded.unasked():
        log.warning(line)


def _check_loaded(gpt2: Any) -> None:
    if not isinstance(gpt2, Pretrained):
        raise InputError(f"gpt2: found {gpt2!r}, expected a model from load_pretrained")


def _check_settings(
    max_new_tokens: int, device: str, batch_size: int = 1, seed: int = 0, **sampling: Any
) -> None:
    """Raises InputError for what evaluate.py would refuse, by the same key."""
    generate = {"max_new_tokens": max_new_tokens, **sampling}
    settings = {"batch_size": batch_size, "seed": seed, "device": device}
    from_dict(EvaluateConfig, {"data": {}, "generate": generate, **settings})


def _listed(given: Any, name: str) -> list[Any]:
    """What was given, as a list; a single record or text is a list of one."""
    if isinstance(given, str | Mapping):
        return [given]
    if type(given).__name__ == "DataFrame":  # it would give the names of its columns
        raise InputError(
            f"{name}: a DataFrame, expected a list of dicts; give its to_dict('records')"
        )
    if isinstance(given, bytes) or not isinstance(given, Iterable):
        raise InputError(
            f"{name}: found {given!r}, expected a list of dicts with instruction, input and output"
        )
    return list(given)


def _training(records: Any) -> list[Record]:
    """The records, of which there must be one; a text is none, though it could be a question."""
    items = [] if isinstance(records, str) else _listed(records, "records")
    if not items:
        raise InputError(f"records: {records!r}; expected a list with at least one record")
    return _checked(items, "records")


def _checked(items: list[Any], name: str) -> list[Record]:
    """The records, checked; keys that are not read are told."""
    plain = [dict(item) if isinstance(item, Mapping) else item for item in items]
    records = [checked_record(item, name, number) for number, item in enumerate(plain, 1)]
    unused: Counter[str] = Counter()
    for item in plain:
        count_unused(item, unused)
    if told := unused_text(name, dict(unused.most_common())):
        log.warning(told)
    return records


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
    return [
        Answer(decode(gpt2.tokenizer, one.tokens), len(one.tokens), one.finish_reason)
        for one in said
    ]


class StepLosses(RunCallback):
    """The loss of each optimizer step."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    def after_step(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData, batch: Batch
    ) -> None:
        self.taken.append(module.step_loss)
