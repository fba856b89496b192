"""The material of a run: the records, the model that is tuned, and the batches of both."""

import logging
import os
from dataclasses import dataclass

import torch

from sft.checkpoint.folder import Pretrained, load_pretrained
from sft.config.schema import LoraConfig, TrainConfig
from sft.data.datamodule import InstructionData
from sft.data.overview import (
    contents_text,
    example_text,
    overview,
    overview_text,
    unused_text,
    weights_text,
)
from sft.data.pairs import load_pairs
from sft.data.prompt import pick_template, template_of
from sft.data.records import FIELDS
from sft.data.sources import Indices, Source, load_source
from sft.data.splits import load_splits, part_rows, weighted
from sft.device import DTYPES, Precision
from sft.errors import InputError
from sft.evaluation.ifd import with_difficulties
from sft.gpt2.fast import row_multiple
from sft.training.reference import with_reference
from sft.training.resume import Past

log = logging.getLogger("sft")


@dataclass(frozen=True)
class Material:
    """The records and the model of a run.

    Attributes:
        parts: for each split the places of its records among those of the source.
        notes: lines on the files, on how their records were divided, and on the template.
        base: the model that is tuned.
        template: the prompt template, in Jinja.
        data: the batches of the records, in the tokens of the model.
    """

    source: Source
    parts: dict[str, Indices]
    notes: list[str]
    base: Pretrained
    template: str
    data: InstructionData

    @property
    def made_of(self) -> dict[str, str]:
        """The hashes that must be the same when the run is resumed."""
        found = {"data": self.source.sha256, "weights": self.base.sha256}
        if self.source.revision:
            found["data commit"] = self.source.revision
        return found


def load_material(config: TrainConfig, past: Past, device: str, precision: Precision) -> Material:
    """Load the data and the model it tunes.

    A split without records is refused before the weights are read.

    Args:
        past: the run that is resumed, if it is. Its data set has the same commit again.

    Raises:
        InputError: the data or the model cannot be loaded, or one does not fit the other.
    """
    commit = past.made_of.get("data commit")
    source = load_source(config.data, past.made_of.get("data"), commit)
    source = with_difficulties(source, config.data, config.model.checkpoint, config.model.revision)
    notes = list(source.notes)
    parts = part_rows(source, config.data, notes)

    base = load_base(config, precision)
    own = template_of(base)
    template, note = pick_template(config.data.prompt, own, base.source)
    if note:
        notes.append(note)
    data = load_data(config, source, parts, base, device, template)
    return Material(source, parts, notes, base, template, data)


def load_base(config: TrainConfig, precision: Precision) -> Pretrained:
    """Load the checkpoint that is tuned.

    With an adapter its matrices are frozen. So they are kept in the type in which they are
    multiplied, which takes half the memory and changes no number.
    """
    return load_pretrained(
        config.model.checkpoint,
        config.model.revision,
        dropout=config.model.dropout,
        linear_dtype=DTYPES[precision] if adapter_of(config) else None,
    )


def adapter_of(config: TrainConfig) -> LoraConfig | None:
    """Return the adapter's settings; None if the whole model is trained."""
    return config.lora if config.lora.kind != "none" else None


def load_data(
    config: TrainConfig,
    source: Source,
    parts: dict[str, Indices],
    base: Pretrained,
    device: str,
    template: str,
) -> InstructionData:
    """Tokenise the splits for this model, and plan their batches.

    Raises:
        InputError: the records are plain text, and the template asks questions; or as in
            `load_splits`.
    """
    if template and any(found.shape == "text" for found in source.contents):
        raise InputError(
            f"{source.name}: text alone, which has no questions; give data.prompt=none to train "
            f"on plain text, or name the keys by {FIELDS}"
        )
    limits = (config.data.max_length, base.model.config.n_positions)
    if config.objective == "dpo":
        splits = load_pairs(source, parts, template, base.tokenizer, *limits)
    else:
        splits = load_splits(
            source,
            parts,
            template,
            base.tokenizer,
            *limits,
            config.data.answers_alone,
            config.data.too_long,
        )
        weight = config.data.prompt_weight
        splits = {name: weighted(split, weight) for name, split in splits.items()}
    return InstructionData(
        splits,
        config.batch_size,
        config.accumulate,
        config.data.shuffle,
        config.seed,
        config.data.workers,
        multiple=row_multiple(device),
        bucket=config.data.bucket,
        weights=config.data.weights or (),
    )


def log_material(config: TrainConfig, made: Material) -> None:
    """Show what the data is, how it was divided, its numbers, and one example for the model."""
    log.info(contents_text(made.source.contents))
    for note in made.notes:
        log.info(note)
    log.info(overview_text(overview(made.data.splits)))
    if config.data.weights:
        log.info(weights_text(config.data.paths(), made.data.plan(1)))
    if unused := unused_text(made.source.name, made.source.unused, made.source.keys):
        log.info(unused)
    example = example_text(made.data.splits["train"], made.base.tokenizer)
    log.info(f"one example, with what is learned in ⟦ ⟧:\n{example}")


def add_reference(config: TrainConfig, made: Material, device: str, precision: Precision) -> None:
    """Give the pairs of preferences their log-probabilities by the model as it is now."""
    place = torch.device(device)
    if device == "cuda":
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    made.data.splits = with_reference(
        made.data.splits,
        made.base.model,
        made.base.sha256,
        place,
        precision,
        config.batch_size,
    )
