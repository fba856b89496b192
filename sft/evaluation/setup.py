"""The subject of an evaluation: a tuned model, its base, the data, and the prompt template.

All of it is checked here, before anything is computed. The models stay on torch's meta device until
they answer, so they take no memory until then.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from glob import glob
from pathlib import Path

from sft.checkpoint.base import base_of
from sft.checkpoint.folder import Pretrained, load_pretrained
from sft.config.loading import from_dict
from sft.config.schema import DataConfig, EvaluateConfig, TrainConfig
from sft.data.prompt import template_of
from sft.data.records import Record
from sft.data.sources import Source, load_source
from sft.data.splits import split_source
from sft.errors import InputError
from sft.evaluation.ifd import with_difficulties
from sft.latest import followed
from sft.prompts import PROMPTS
from sft.shell import setting
from sft.summaries import RUN_SUMMARY, RunSummary, read_run_summary, refuse_former_nano


@dataclass(frozen=True)
class Setup:
    """A tuned model and all that belongs to its evaluation.

    Attributes:
        models: `tuned` and, if there is one, `base`; checked, not in memory.
        no_base: why there is no base; None if there is one.
        data: how the data is split and the prompt is masked.
        source: the data file, read.
        template: the prompt's, in Jinja.
        folder: for the results.
        run: the folder of the run that made the tuned model; None for a checkpoint.
    """

    models: dict[str, Pretrained]
    no_base: str | None
    data: DataConfig
    source: Source
    template: str
    folder: Path
    run: Path | None

    @cached_property
    def splits(self) -> dict[str, list[Record]]:
        """The records of each split, in file order. Dividing by question takes a while."""
        return split_source(self.source, self.data)

    def records(self, split: str, limit: int | None) -> list[Record]:
        """Return the first `limit` records of a split, in file order.

        Raises:
            InputError: the split has no record.
        """
        records = self.splits[split]
        if not records:
            raise InputError(
                f"split: data.split = {self.data.split} leaves no record for {split}; "
                "choose another"
            )
        return records[:limit]

    def split_sizes(self) -> dict[str, dict[str, int]]:
        """Return the number of records of each split."""
        return {name: {"records": len(records)} for name, records in self.splits.items()}

    def training_records(self) -> list[Record]:
        """Return the records that the tuned model was trained on; none if they are not known."""
        return self.records("train", None) if self.run else []

    def used_for_tuning(self, split: str) -> list[Record] | None:
        """Return the records of the other splits that had a part in making the tuned model.

        The model learned from the training split, and the validation split chose its best weights.
        None: they are not known.
        """
        if self.run is None:
            return None
        splits = self.splits
        others = [name for name in ("train", "validation") if name != split]
        return [record for name in others for record in splits[name]]


def load_setup(config: EvaluateConfig) -> Setup:
    """Load what the config names: the result of a run, or a checkpoint and data.

    Raises:
        InputError: something is missing, or does not fit.
    """
    if config.checkpoint is None:
        return setup_of_run(config.run, config.data)
    return setup_of_checkpoint(config)


def setup_of_run(folder: str | None, now: DataConfig | None = None) -> Setup:
    """Load the model of a run of train.py, the base that it began with, and its data.

    Args:
        now: says where the files of the run's data are now, if they have moved.

    Raises:
        InputError: there is no finished run, or its data or base have changed since, or they cannot
            be loaded.
    """
    if folder is None:
        raise InputError("run: missing; give run=FOLDER or checkpoint=")
    run = followed(folder)

    # A link such as `latest` is followed once, since it may point at another run meanwhile.
    if run.is_symlink():
        run = run.parent / run.readlink()
    past = _read_run(run)
    config = from_dict(TrainConfig, past.config)
    data, source = _data_of_run(run, past, config.data, now)
    tuned = check_model(run / "model")
    base = check_model(config.model.checkpoint, past.checkpoint.revision)
    if base.sha256 != past.checkpoint.sha256:
        refuse_former_nano(past.checkpoint.sha256, run)
        raise InputError(
            f"{base.source}: other weights than those that {run} began with; restore those, or "
            f"evaluate the tuned model with {setting('checkpoint', run / 'model')} data=... "
            "out=FOLDER"
        )
    source = with_difficulties(source, data, config.model.checkpoint, past.checkpoint.revision)
    return Setup(
        models={"tuned": tuned, "base": base},
        no_base=None,
        data=data,
        source=source,
        template=_template(tuned, data),
        folder=run / "evaluation",
        run=run,
    )


def _data_of_run(
    run: Path, past: RunSummary, data: DataConfig, now: DataConfig | None
) -> tuple[DataConfig, Source]:
    """Load the file that a run was trained on. With another one, its splits would be others.

    Args:
        data: the data of the run's config.
        now: as in `setup_of_run`.
    """
    moved = {key: path for key in FILES if now and (path := getattr(now, key))}
    data = replace(data, **moved)
    for key, path in given_files(data):
        if not os.path.exists(path) and not glob(path, recursive=True):
            raise InputError(
                f"{path}: no such file; {run} was trained on it: give data.{key}=, where it is now"
            )
    source = load_source(data, past.data.sha256, past.data.revision)
    if source.sha256 != past.data.sha256:
        refuse_former_nano(past.data.sha256, run)
        change = f"changed since {run} was trained on it"
        if moved:
            change = f"not the file that {run} was trained on"
        raise InputError(
            f"{source.name}: {change} (sha256 {past.data.sha256[:12]}…, here "
            f"{source.sha256[:12]}…), so its test records may be others; give data.path=, where "
            "the old file is now, or evaluate on this one with "
            f"{setting('checkpoint', run / 'model')} data=file data.path=FILE out=FOLDER"
        )
    return data, source


# The keys that name files, which may have moved since a run began.
FILES = ("path", "test", "validation")


def given_files(data: DataConfig) -> Iterator[tuple[str, str]]:
    """Yield the files of the user's own data, each with its key."""
    if data.source != "hub":
        for path in data.paths():
            yield "path", path
    for key in FILES[1:]:
        if path := getattr(data, key):
            yield key, path


def _read_run(run: Path) -> RunSummary:
    if not run.is_dir():
        raise InputError(
            f"run: {run} is not there; train first (python train.py), or give run=FOLDER or "
            "checkpoint="
        )
    if not (run / RUN_SUMMARY).is_file():
        remedy = "train again, or give another run="
        if (run / "checkpoints" / "last.ckpt").exists():
            remedy = f"python train.py {setting('resume', run)} continues it"
        raise InputError(f"run: {run} is not a finished run (it has no summary.json); {remedy}")
    return read_run_summary(run)


def setup_of_checkpoint(config: EvaluateConfig) -> Setup:
    """Load the checkpoint and the data that the config names, and the checkpoint's base if known.

    Raises:
        InputError: they cannot be loaded, or the folder for the results holds something else.
    """
    assert config.checkpoint is not None
    assert config.out is not None
    folder = Path(os.path.expanduser(config.out))
    if (folder / "summary.json").exists() and not (folder / "answers.jsonl").exists():
        raise InputError(
            f"out: {folder} holds a summary.json that is not of an evaluation; give another folder"
        )
    source = load_source(config.data)
    tuned = check_model(config.checkpoint, config.revision)
    models = {"tuned": tuned}
    no_base = None
    try:
        models["base"] = base_of(tuned, check_model)
    except InputError as error:
        no_base = str(error)
    template = _template(tuned, config.data)
    return Setup(models, no_base, config.data, source, template, folder, run=None)


def check_model(name: str | Path, revision: str | None = None) -> Pretrained:
    """Return a checkpoint whose files have been checked, with its weights not in memory."""
    return load_pretrained(name, revision, device="meta")


def _template(tuned: Pretrained, data: DataConfig) -> str:
    """Return the template that the model was tuned with, or its chat template.

    Without either, it is the template that the config names.
    """
    own = template_of(tuned)
    template = PROMPTS[data.prompt or "alpaca"] if own is None else own
    if not template:
        raise InputError(
            f"data.prompt: {tuned.source} was trained on plain text, without a prompt template"
        )
    return template
