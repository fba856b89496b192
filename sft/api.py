"""The functions for notebooks: train on a list of dicts, ask, measure, save.

A record is a dict as in the data files. Records and questions are given as a list, or as another
iterable, such as a generator. A single record or question stands for a list of one.

Only `save` writes files. For checkpoints, metrics and several devices, use train.py.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from sft.checkpoint.folder import Pretrained, save_adapter, save_pretrained
from sft.config.loading import from_dict
from sft.config.schema import DataConfig, EvaluateConfig, TrainConfig
from sft.data.batches import Batch
from sft.data.datamodule import InstructionData
from sft.data.loop_state import epochs_done
from sft.data.overview import unused_text
from sft.data.prompt import chat_of, pick_template, template_of
from sft.data.records import Contents, Reader, Record
from sft.data.splits import encode_splits
from sft.dataclass_json import to_json
from sft.device import pick_device, pick_precision
from sft.errors import InputError
from sft.evaluation.answers import Answer, Decoding, decode_answers
from sft.evaluation.measure import EncodedRecords, encode_records, measure
from sft.evaluation.results import answer_results
from sft.gpt2.fast import row_multiple
from sft.gpt2.generate import row_seeds
from sft.gpt2.lora import add_lora, merged
from sft.gpt2.model import GPT
from sft.prompts import PROMPTS
from sft.scoring.aggregate import numbers
from sft.training.callback import RunCallback
from sft.training.module import InstructionTuner
from sft.training.progress import Progress
from sft.training.summary import loss_figure
from sft.training.trainer import make_trainer

log = logging.getLogger(__name__)

# A record as the user gives it.
Given = Mapping[str, Any]


@dataclass(frozen=True)
class Step:
    """An optimizer step of `finetune`, for its `progress`.

    Attributes:
        number, of: the step, and their number in all.
        loss: in nats per supervised token.
    """

    number: int
    of: int
    loss: float


class Losses(list[float]):
    """The loss of each optimizer step.

    Attributes:
        rows: the same as a table, with `step`, `epoch`, `train/loss`, and `val/full_loss` after
            each epoch.
        validation: the loss of the validation records after each epoch.
    """

    def __init__(self, rows: list[dict[str, float]]) -> None:
        super().__init__(row["train/loss"] for row in rows)
        self.rows = rows
        self.validation = [row["val/full_loss"] for row in rows if "val/full_loss" in row]

    def plot(self) -> Figure:
        """Draw the curves."""
        return loss_figure(self.rows)


def finetune(
    gpt2: Pretrained,
    records: Iterable[Given] | Given,
    epochs: int = 2,
    batch_size: int = 8,
    lr: float = 5e-5,
    prompt: str | None = None,
    mask_prompt: bool = False,
    seed: int = 123,
    device: str = "auto",
    precision: str = "auto",
    *,
    lora: bool | int = False,
    validation: Iterable[Given] | Given | None = None,
    patience: int | None = None,
    progress: Callable[[Step], None] | None = None,
) -> Losses:
    """Train a model in place, as train.py does.

    The settings are those of the same names in conf/train.yaml and conf/data.yaml. The number of
    torch's threads is left as it is (`torch.set_num_threads`), because the order of sums depends on
    it.

    Args:
        prompt: a template by its name; None: the model's own, or alpaca if it has none.
        lora: train an adapter beside the frozen weights: True, or its rank.
        validation: records whose loss is taken after each epoch. The weights with the lowest loss
            are kept.
        patience: stop after this many epochs without a better validation loss.
        progress: is called after each step, instead of a progress bar.

    Returns:
        The loss of each optimizer step, in nats per supervised token: a list, with `validation`,
        `rows` and `plot()`.

    Raises:
        InputError: a record, named by its number from 1, cannot be used, or a setting is out of its
            range.
    """
    _check_loaded(gpt2)
    if patience is not None and (validation is None or patience < 1):
        raise InputError(f"patience: {patience}; expected a number from 1 up, with validation=")
    settings = {
        "model": {"checkpoint": gpt2.source},
        "data": {"prompt": prompt, "mask_prompt": mask_prompt},
        "optim": {"lr": lr},
        "eval": {},
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "device": device,
        "precision": precision,
    }
    if lora is not False:
        settings["lora"] = {"kind": "default"} | ({} if lora is True else {"rank": lora})
    config = from_dict(TrainConfig, settings)
    device = pick_device(device)

    # Tokenise the records.
    own = template_of(gpt2)
    template, note = pick_template(prompt, own, gpt2.source)
    if note:
        log.log(logging.WARNING if prompt else logging.INFO, note)
    context = gpt2.model.config.n_positions
    parts: dict[str, list[Record]] = {
        "train": _records_of(records),
        "validation": [] if validation is None else _records_of(validation, "validation"),
    }
    splits = encode_splits(parts, template, gpt2.tokenizer, None, context, mask_prompt)
    data = InstructionData(splits, batch_size, seed=seed, multiple=row_multiple(device))

    # An adapter of an earlier call is trained further.
    if lora is not False:
        if gpt2.lora:
            raise InputError("lora: the model has an adapter; without lora= it is trained further")
        add_lora(gpt2.model.to("cpu"), config.lora, seed)
        gpt2.lora = config.lora

    # Train.
    module = InstructionTuner(gpt2.model, config.optim, data.plan(1).steps * epochs, seed=seed)
    noted = Noted(progress, patience)
    callbacks: list[Callback] = [noted] if progress else [Progress(), noted]
    picked = pick_precision(precision, device)
    bar = progress is None
    trainer = make_trainer(config, 1, device, picked, callbacks, logger=False, bar=bar)
    trainer.fit(module.train(), data)
    noted.restore_best(gpt2.model)

    _note_tuning(gpt2, template, any(record.before for record in parts["train"]))
    return Losses(noted.rows)


def _note_tuning(gpt2: Pretrained, template: str, conversations: bool) -> None:
    """Update the origin of a model and its template after a training."""
    gpt2.prompt = template or None
    gpt2.chat_template = chat_of(template, gpt2.chat_template)
    gpt2.conversations = conversations

    # With an adapter, the other weights are still the ones in the file.
    gpt2.base = gpt2.source if gpt2.sha256 else gpt2.base
    if gpt2.lora is None:
        gpt2.sha256 = ""
        gpt2.revision = None
        gpt2.adapter = None
        gpt2.read = gpt2.model.get_parameter


def save(gpt2: Pretrained, folder: str | Path, adapter: bool = False) -> None:
    """Write a model with its prompt template into a folder, as a run writes its `model/`.

    Args:
        adapter: write the adapter of `finetune(..., lora=True)` alone, for PEFT and for
            `load_pretrained`. Otherwise it becomes part of the weights in the file.

    Raises:
        InputError: as in `save_pretrained`, or there is no adapter.
    """
    _check_loaded(gpt2)
    if not isinstance(folder, str | Path):
        raise InputError(f"folder: found {folder!r}, expected the path of a folder")
    if adapter:
        if gpt2.lora is None:
            raise InputError("adapter: the model has none; train one with finetune(..., lora=True)")
        save_adapter(gpt2, gpt2.lora, folder, gpt2.prompt, gpt2.chat_template, gpt2.conversations)
        return
    save_pretrained(
        merged(gpt2.model) if gpt2.lora else gpt2.model,
        folder,
        gpt2.tokenizer,
        gpt2.prompt,
        gpt2.base,
        chat_template=gpt2.chat_template,
        conversations=gpt2.conversations,
        ends=gpt2.ends,
    )


def answer(
    gpt2: Pretrained,
    questions: Iterable[str | Given] | str | Given,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 123,
    device: str = "auto",
    *,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    no_repeat_ngram: int | None = None,
    frequency_penalty: float = 0.0,
    presence_penalty: float = 0.0,
    stop: Sequence[str] = (),
    best_of: int = 1,
) -> list[str | None]:
    """Answer instructions or records. The model sees all of a record but its answer.

    A conversation is a record with `messages`, such as `{"messages": [{"role": "user", "content":
    "Name a bird."}]}`, whose last turn is the user's. An answer after it is left out.

    The other settings are those of the same names in conf/evaluate.yaml.

    Returns:
        One answer for each question, also if a single question is given. None, with a warning,
        stands for a question whose prompt is empty or longer than the context.

    Raises:
        InputError: a question, named by its number from 1, cannot be used; no question can be
            asked; or a setting is out of its range.
    """
    _check_loaded(gpt2)
    config = _check_settings(
        max_new_tokens,
        device,
        seed=seed,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        no_repeat_ngram=no_repeat_ngram,
        frequency_penalty=frequency_penalty,
        presence_penalty=presence_penalty,
        stop=[stop] if isinstance(stop, str) else list(stop),
        best_of=best_of,
    )

    asked = [_without_answer(question) for question in _listed(questions, "questions")]
    records = _checked(asked, "questions")
    if not records:
        return []

    encoded = encode_records("tuned", gpt2, records, _template(gpt2), DataConfig(), "questions")
    _warn_of_unasked(encoded)
    answers = iter(_answers(gpt2, encoded.prompts, config))
    return [None if status else next(answers).text for status in encoded.statuses]


def evaluate(
    gpt2: Pretrained,
    records: Iterable[Given] | Given,
    max_new_tokens: int = 256,
    batch_size: int = 32,
    device: str = "auto",
) -> dict[str, Any]:
    """Answer the records greedily in fp32, and measure the answers.

    Returns:
        Means and 95% intervals, with the keys of evaluate.py's `summary.json`. `not_asked` counts
        the records whose prompt is empty or longer than the context. They are left out.

    Raises:
        InputError: a record, named by its number from 1, cannot be used; no record can be asked;
            or a setting is out of its range.
    """
    _check_loaded(gpt2)
    config = _check_settings(max_new_tokens, device, batch_size)
    checked = _records_of(records)
    encoded = encode_records("tuned", gpt2, checked, _template(gpt2), DataConfig(), "records")
    _warn_of_unasked(encoded)
    gpt2.model.to(pick_device(device)).eval()
    result = measure(
        encoded,
        gpt2.model,
        "32-true",
        batch_size,
        lambda: _answers(gpt2, encoded.prompts, config),
    )
    found: dict[str, Any] = {}
    for name, value in numbers(answer_results(result)).items():
        found |= value if name == "metrics" else {name: to_json(value)}
    return found


def _without_answer(question: Any) -> Any:
    """Return a question as a record with an empty answer. Other values stay as they are."""
    if isinstance(question, str):
        return {"instruction": question, "output": ""}
    if not isinstance(question, Mapping):
        return question
    messages = question.get("messages")
    if not isinstance(messages, list):
        return {**question, "output": ""}

    last = messages[-1] if messages else None
    if isinstance(last, Mapping) and last.get("role") == "assistant":
        messages = messages[:-1]
    return {**question, "messages": [*messages, {"role": "assistant", "content": ""}]}


def _template(gpt2: Pretrained) -> str:
    """Return the template the model was trained with; Alpaca's if it is not known."""
    found = template_of(gpt2)
    return found or PROMPTS["alpaca"]


def _warn_of_unasked(encoded: EncodedRecords) -> None:
    for line in encoded.unasked():
        log.warning(line)


def _check_loaded(gpt2: Any) -> None:
    if not isinstance(gpt2, Pretrained):
        raise InputError(f"gpt2: found {gpt2!r}, expected a model from load_pretrained")


def _check_settings(
    max_new_tokens: int, device: str, batch_size: int = 32, seed: int = 0, **generate: Any
) -> EvaluateConfig:
    """Return the settings of an evaluation.

    Raises:
        InputError: evaluate.py would refuse one, by the same key.
    """
    generate = {"max_new_tokens": max_new_tokens, **generate}
    settings = {"batch_size": batch_size, "seed": seed, "device": device}
    return from_dict(EvaluateConfig, {"data": {}, "generate": generate, **settings})


def _listed(given: Any, name: str) -> list[Any]:
    """Return the records or questions as a list. A single one is a list of one."""
    if isinstance(given, str | Mapping):
        return [given]

    # Iterating over a DataFrame gives the names of its columns.
    if type(given).__name__ == "DataFrame":
        raise InputError(
            f"{name}: a DataFrame, expected a list of dicts; give its to_dict('records')"
        )
    if isinstance(given, bytes) or not isinstance(given, Iterable):
        raise InputError(
            f"{name}: found {given!r}, expected a list of dicts with instruction, input and output"
        )
    return list(given)


def _records_of(records: Any, name: str = "records") -> list[Record]:
    """Return the records, checked. There must be at least one, and a text is not a record."""
    items = [] if isinstance(records, str) else _listed(records, name)
    if not items:
        raise InputError(f"{name}: {records!r}; expected a list with at least one record")
    return _checked(items, name)


def _checked(items: list[Any], name: str) -> list[Record]:
    """Return the records, checked. Warn of keys that are not read."""
    plain = [dict(item) if isinstance(item, Mapping) else item for item in items]
    reader = Reader(name)
    contents = Contents()
    records: list[Record] = []
    for number, item in enumerate(plain, 1):
        record, shape = reader.read(item, number)
        contents.add(item, shape, record)
        records.append(record)
    if warning := unused_text(name, dict(contents.unused.most_common()), contents.keys):
        log.warning(warning)
    return records


def _answers(
    gpt2: Pretrained, prompts: Sequence[Sequence[int]], config: EvaluateConfig
) -> list[Answer]:
    """Return the answers to the prompts, in their order."""
    model = gpt2.model.to(pick_device(config.device)).eval()
    decoding = Decoding.of(config.generate, config.seed, "32-true", [gpt2])
    seeds = row_seeds(config.seed, len(prompts))
    found = decode_answers(model, gpt2.tokenizer, prompts, seeds, decoding, config.batch_size)
    by_index = dict(found)
    return [by_index[index] for index in range(len(prompts))]


class Noted(RunCallback):
    """Note the losses of a training, report its progress, and end it early.

    Attributes:
        rows: as in `Losses`.
    """

    def __init__(self, progress: Callable[[Step], None] | None, patience: int | None) -> None:
        self.progress = progress
        self.patience = patience
        self.rows: list[dict[str, float]] = []
        self.best = float("inf")
        self._best_weights: dict[str, Tensor] = {}
        self._waited = 0
        self._tokens = 0

    def after_step(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData, batch: Batch
    ) -> None:
        self._tokens += batch.step_tokens
        row = {
            "step": trainer.global_step,
            "epoch": epochs_done(trainer),
            "tokens_seen": self._tokens,
            "train/loss": module.step_loss,
        }
        self.rows.append(row)
        if self.progress:
            self.progress(Step(trainer.global_step, module.total_steps, module.step_loss))

    def after_validation(
        self, trainer: Trainer, module: InstructionTuner, data: InstructionData
    ) -> None:
        loss = module.validation_loss
        self.rows[-1]["val/full_loss"] = loss
        if loss < self.best:
            self.best = loss
            self._waited = 0
            self._best_weights = {
                name: parameter.detach().to("cpu", copy=True)
                for name, parameter in module.model.named_parameters()
                if parameter.requires_grad
            }
            return
        self._waited += 1
        if self._waited == self.patience:
            trainer.should_stop = True

    def restore_best(self, model: GPT) -> None:
        """Give a model the weights with the best validation loss, if one was taken."""
        if self._best_weights:
            model.load_state_dict(self._best_weights, strict=False)
