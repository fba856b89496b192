"""What is evaluated: a tuned model, its base, the records that both are asked, and the template they are asked in.

All of it is checked here, before anything is computed. The models stay on torch's meta device until their turn comes:
their files have been looked through, but take no memory.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from sft.checkpoint.folder import Pretrained, load_pretrained
from sft.config.loading import from_dict
from sft.config.schema import DataConfig, EvaluateConfig, TrainConfig
from sft.data.prompt import template_of
from sft.data.records import Record
from sft.data.sources import Source, load_source
from sft.data.splits import split_records
from sft.errors import InputError
from sft.prompts import PROMPTS
from sft.shell import setting
from sft.summaries import RUN_SUMMARY, RunSummary, read_run_summary


@dataclass(frozen=True)
class Subject:
    """A tuned model and all that belongs to its evaluation."""

    models: dict[str, Pretrained]  # "tuned" and, if there is one, "base"; checked, not in memory
    alone: str | None  # why there is no base
    data: DataConfig
    source: Source
    template: str
    folder: Path  # of the answers
    run: Path | None  # that made the tuned model

    def records(self, split: str, limit: int | None) -> list[Record]:
        """The first `limit` records of a split, in file order."""
        records = split_records(self.source.records, self.data.split)[split]
        if not records:
            raise InputError(
                f"split: data.split = {self.data.split} leaves no record for {split}; choose another"
            )
        return records[:limit]

    def sizes(self) -> dict[str, dict[str, int]]:
        """The records of each split."""
        parts = split_records(self.source.records, self.data.split)
        return {name: {"records": len(part)} for name, part in parts.items()}

    def training(self) -> list[Record]:
        """The records that the tuned model was trained on, as far as that is known."""
        return self.records("train", None) if self.run else []

    def seen(self, split: str) -> list[Record] | None:
        """The records of the other splits that had a part in making the tuned model: it learned from those of train,
        and its best weights were chosen by those of validation. None: not known."""
        parts = split_records(self.source.records, self.data.split)
        others = [parts[name] for name in ("train", "validation") if name != split]
        return [record for part in others for record in part] if self.run else None


def subject_of_run(folder: str | None, data_path: str | None = None) -> Subject:
    """The model that a run of train.py left, beside the one it began with, and its data.

    Args:
        data_path: where the file of the run's data is now; None: where it was.

    Raises:
        InputError: no finished run is there, or its data or base have changed since; and what loading them raises.
    """
    if folder is None:
        raise InputError("run: missing; give run=FOLDER or checkpoint=")
    run = Path(os.path.expanduser(folder))
    if run.is_symlink():  # `latest` may be turned to another run meanwhile
        run = run.parent / run.readlink()
    past = _read_run(run)
    config = from_dict(TrainConfig, past.config)
    data = replace(config.data, path=data_path or config.data.path)
    if data.path is not None and not os.path.exists(data.path):
        raise InputError(
            f"{data.path}: no such file; {run} was trained on it: give data.path=, where it is now"
        )
    source = load_source(data)
    if source.sha256 != past.data.sha256:
        what = (
            "not the file that {} was trained on"
            if data_path
            else "changed since {} was trained on it"
        )
        raise InputError(
            f"{source.path}: {what.format(run)} (sha256 {past.data.sha256[:12]}…, here {source.sha256[:12]}…), so its "
            "test records may be others; give data.path=, where the old file is now, or evaluate on this one with "
            f"{setting('checkpoint', run / 'model')} data=json data.path=FILE out=FOLDER"
        )
    tuned = look_at(run / "model")
    base = look_at(config.model.checkpoint, past.checkpoint.revision)
    if base.sha256 != past.checkpoint.sha256:
        raise InputError(
            f"{base.source}: other weights than those that {run} began with; bring these back, or evaluate the tuned "
            f"model with {setting('checkpoint', run / 'model')} data=... out=FOLDER"
        )
    template = _template(tuned, data)
    return Subject(
        {"tuned": tuned, "base": base}, None, data, source, template, run / "evaluation", run
    )


def _read_run(run: Path) -> RunSummary:
    path = run / RUN_SUMMARY
    if not run.is_dir():
        raise InputError(
            f"run: {run} is not there; train first (python train.py), or give run=FOLDER or checkpoint="
        )
    if not path.is_file():
        unfinished = (run / "checkpoints" / "last.ckpt").exists()
        remedy = "train again, or give another run="
        if unfinished:
            remedy = f"python train.py {setting('resume', run)} goes on with it"
        raise InputError(f"run: {run} is no finished run (it has no summary.json); {remedy}")
    return read_run_summary(run)


def subject_of_checkpoint(config: EvaluateConfig) -> Subject:
    """The checkpoint and data that the config names; its base is the one that the checkpoint names, if any.

    Raises:
        InputError: what loading them raises; or the folder for the answers holds something else.
    """
    assert config.checkpoint is not None
    assert config.out is not None
    folder = Path(os.path.expanduser(config.out))
    if (folder / "summary.json").exists() and not (folder / "answers.jsonl").exists():
        raise InputError(
            f"out: {folder} holds a summary.json that is not of an evaluation; give another folder"
        )
    source = load_source(config.data)
    tuned = look_at(config.checkpoint, config.revision)
    base, alone = _base_of(tuned)
    models = {"tuned": tuned} | ({"base": base} if base else {})
    return Subject(models, alone, config.data, source, _template(tuned, config.data), folder, None)


def _base_of(tuned: Pretrained) -> tuple[Pretrained | None, str | None]:
    """The base that a checkpoint names, or why there is none to ask."""
    if tuned.base is None:
        return None, f"{tuned.source} does not name its base"
    try:
        base = look_at(tuned.base, tuned.adapter.revision if tuned.adapter else None)
    except InputError as error:
        return None, f"its base cannot be loaded: {error}"
    same = base.sha256 == tuned.sha256
    return (None, f"its base, {tuned.base}, has the same weights") if same else (base, None)


def look_at(name: str | Path, revision: str | None = None) -> Pretrained:
    """A checkpoint, checked and not yet in memory."""
    return load_pretrained(name, revision, device="meta")


def _template(tuned: Pretrained, data: DataConfig) -> str:
    """The template the model was tuned with, or its chat template; without either, the one that the config names."""
    own = template_of(tuned.source, tuned.prompt, tuned.chat_template, tuned.names)
    template = PROMPTS[data.prompt] if own is None else own
    if not template:
        raise InputError(
            f"data.prompt: {tuned.source} was trained on plain text, without a template to ask it in"
        )
    return template
