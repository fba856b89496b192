"""One run, from records to a folder that holds all it gave.

Read `fit` first: it lists what a run is. train.py imports this file only when the config has been
checked, since torch and Lightning take seconds to import.
"""

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Callback

from sft.checkpoint.folder import Pretrained, load_pretrained
from sft.config.rules import steps_warning
from sft.config.schema import LoraConfig, OptimConfig, TrainConfig
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
from sft.data.prompt import log_template, pick_template, template_of
from sft.data.sources import Indices, Source, load_source
from sft.data.splits import load_splits, part_rows, weighted
from sft.device import (
    DTYPES,
    Precision,
    check_compiler,
    keep_freed_memory,
    pick_device,
    pick_precision,
    pick_threads,
)
from sft.errors import InputError, counted
from sft.evaluation.ifd import with_difficulties
from sft.gpt2.fast import row_multiple
from sft.gpt2.lora import add_lora
from sft.gpt2.model import GPT
from sft.latest import LATEST
from sft.objective import CrossEntropy, Objective, Preference
from sft.summaries import RUN_SUMMARY, CheckpointUsed, DataUsed, RunSummary, versions
from sft.training.answers import ValidationAnswers
from sft.training.best import Best, is_exhausted
from sft.training.interruption import Interruption
from sft.training.memory import EnoughMemory
from sft.training.metrics import Metrics
from sft.training.metrics_file import MetricsFile
from sft.training.module import InstructionTuner
from sft.training.mps import EmptyCache
from sft.training.optim import beta2_of
from sft.training.order import in_order
from sft.training.profile import Profile
from sft.training.progress import Progress
from sft.training.reference import with_reference
from sft.training.resume import Past, past_of
from sft.training.run_folder import RunFolder
from sft.training.samples import SampleAnswer
from sft.training.sanity import SanityGate
from sft.training.saving import complete_model, save_tuned
from sft.training.summary import loss_changes, peak_memory_bytes, report_run
from sft.training.trackers import Tracking, make_tracker
from sft.training.trainer import explain_out_of_memory, make_trainer

log = logging.getLogger("sft")


def fit(config: TrainConfig, folder: Path, processes: int, changed: str = "") -> None:
    """Train. Collective: every process of the run calls it.

    Args:
        folder: the run's; it exists.
        processes: of the run, on all machines.
        changed: the settings that are not the defaults, and where they come from, for the log.

    Raises:
        InputError: what the user gave does not fit, from the data file to the GPU's memory.
        SystemExit: a signal ended the run.
    """
    device = pick_device(config.device, config.devices)
    precision = pick_precision(config.precision, device)
    threads = pick_threads(config.threads, device, config.devices)
    config = dataclasses.replace(config, threads=threads)
    keep_freed_memory()

    past = past_of(folder) if config.resume else Past()

    # Load the data and the model it tunes. A split without records is refused before the weights
    # are read.
    commit = past.made_of.get("data commit")
    source = load_source(config.data, past.made_of.get("data"), commit)
    source = with_difficulties(source, config.data, config.model.checkpoint, config.model.revision)
    notes = list(source.notes)
    parts = part_rows(source, config.data, notes)
    base = load_base(config, precision)
    own = template_of(base.source, base.prompt, base.chat_template, base.names)
    template = pick_template(config.data.prompt, own)
    log_template(template, own, base.source)
    data = load_data(config, source, parts, base, device, template)

    # Plan the steps, and find the place in the plan where a resumed run goes on.
    steps = total_steps(config, data, processes)
    made_of = {"data": source.sha256, "weights": base.sha256}
    if source.revision:
        made_of["data commit"] = source.revision
    if config.resume:
        past.check(folder, made_of)
    out_of_patience = is_exhausted(past.without_better, config.eval.patience)
    nothing_left = past.steps >= steps or out_of_patience
    if nothing_left and (folder / RUN_SUMMARY).exists():
        done = f"all {past.steps} steps are done; to go on, raise epochs= or max_steps="
        if out_of_patience:
            done = f"step {past.steps} was the last by eval.patience; to go on, raise it"
        log.info(f"{folder}: {done}")
        return

    # Make the trainer. A tracker that does not answer is found before anything is logged.
    tracker = make_tracker(config.logger, folder, past)
    if changed:
        log.info(changed)
    log_data(config, data, source, base, notes)
    resumed = f", resumed at step {past.steps + 1}" if past.steps else ""
    log.info(f"{processes} × {device}, {precision}, {counted(steps, 'step')}{resumed}")
    if warning := steps_warning(config, steps):
        log.warning(warning)
    if config.objective == "dpo":
        add_reference(config, data, base, device, precision)
    tokens_per_step = data.tokens_per_step(processes)
    module = make_module(config, base, steps, device, tokens_per_step)
    best = Best(config.eval)
    answers = validation_answers(config, source, parts["validation"], base, template)
    file = MetricsFile(folder / "metrics.csv", beside=module.objective.names)
    metrics = Metrics(config.eval, file, best, answers)
    gate = SanityGate(config.eval.batches, config.model.allow_untrained)
    save = model_saver(config, base, folder, template, source.conversations)
    run_folder = RunFolder(folder, config, made_of, best, save, LATEST)
    others = other_callbacks(config, base, metrics, run_folder, device, template)
    callbacks = in_order([gate, metrics, run_folder, *others])
    stop_at = past.steps if nothing_left else -1
    trainer = make_trainer(config, processes, device, precision, callbacks, tracker, stop_at)

    # Fit.
    if trainer.is_global_zero:
        metrics.file.resume(past.steps)
    with explain_out_of_memory(module):
        trainer.fit(module, data, ckpt_path=past.checkpoint)
    complete_model(trainer, module.model, run_folder, nothing_left)

    # Finish. A signal may have come when there was no step left for it to stop.
    if trainer.is_global_zero:
        summary = summarise(
            config, source, base, data, device, precision, metrics, gate, run_folder, template
        )
        report_run(folder, summary, metrics.file.rows)
        module.signals.leave_if_noted()


# The parts, in the order in which `fit` asks for them


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
            "on plain text, or name the keys by data.fields={instruction: KEY, output: KEY}"
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


def add_reference(
    config: TrainConfig,
    data: InstructionData,
    base: Pretrained,
    device: str,
    precision: Precision,
) -> None:
    """Give the pairs of preferences their log-probabilities by the model as it is now."""
    place = torch.device(device)
    if device == "cuda":
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    data.splits = with_reference(
        data.splits, base.model, base.sha256, place, precision, config.batch_size
    )


def total_steps(config: TrainConfig, data: InstructionData, processes: int) -> int:
    """Return the optimizer steps of the whole run."""
    planned = data.plan(processes).steps * config.epochs
    return planned if config.max_steps == -1 else min(planned, config.max_steps)


def log_data(
    config: TrainConfig,
    data: InstructionData,
    source: Source,
    base: Pretrained,
    notes: Sequence[str],
) -> None:
    """Show how the data was divided, the splits in numbers, and one example as the model sees it.

    Args:
        notes: lines on the files, and on how their records were divided.
    """
    for note in notes:
        log.info(note)
    log.info(contents_text(source.contents))
    log.info(overview_text(overview(data.splits)))
    if config.data.weights:
        log.info(weights_text(config.data.paths(), data.plan(1)))
    if unused := unused_text(source.name, source.unused, source.keys):
        log.info(unused)
    example = example_text(data.splits["train"], base.tokenizer)
    log.info(f"one example, with what is learned in ⟦ ⟧:\n{example}")


def make_module(
    config: TrainConfig, base: Pretrained, steps: int, device: str, tokens_per_step: float
) -> InstructionTuner:
    """Make the LightningModule around the model, which gets its adapter and is compiled here."""
    if adapter := adapter_of(config):
        adapt(base, adapter, config.seed)
    base.model.activation_checkpointing = config.activation_checkpointing
    base.model.neftune = config.optim.neftune or 0.0
    if config.compile:
        check_compiler(device)
        base.model.compile_layers()
    return InstructionTuner(
        base.model,
        with_betas(config.optim, tokens_per_step),
        steps,
        config.accumulate,
        config.seed,
        config.on_nonfinite,
        objective_of(config, base.model),
    )


def objective_of(config: TrainConfig, model: GPT) -> Objective:
    """Return what the training minimises."""
    if config.objective == "dpo":
        return Preference(model, config.dpo)
    return CrossEntropy(model, config.data.prompt_weight)


def with_betas(optim: OptimConfig, tokens_per_step: float) -> OptimConfig:
    """Return the settings with the second beta that the half-life gives, if there is one."""
    if optim.beta2_half_life is None:
        return optim
    beta2 = beta2_of(optim.beta2_half_life, tokens_per_step)
    log.info(
        f"the half-life of {optim.beta2_half_life:,.0f} tokens makes a second beta of {beta2:.6g}, "
        f"at {tokens_per_step:,.0f} tokens in a step"
    )
    return dataclasses.replace(optim, betas=[optim.betas[0], beta2])


def adapt(base: Pretrained, config: LoraConfig, seed: int) -> None:
    """Freeze the model and give it an adapter.

    Raises:
        InputError: it was loaded from an adapter, and two cannot be kept.
    """
    if base.adapter:
        raise InputError(
            f"model.checkpoint: {base.source} is an adapter, and a second one cannot be trained on "
            "it; give the model/ folder of its run"
        )
    add_lora(base.model, config, seed)

    parameters = list(base.model.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    every = sum(parameter.numel() for parameter in parameters)
    log.info(f"LoRA: {trained:,} of {every:,} parameters are trained")


def model_saver(
    config: TrainConfig, base: Pretrained, folder: Path, template: str, conversations: bool
) -> Callable[[GPT], None]:
    """Return the function that writes a model's weights into the run's folder."""
    return partial(
        save_tuned,
        base=base,
        lora=adapter_of(config),
        template=template,
        folder=folder,
        conversations=conversations,
    )


def validation_answers(
    config: TrainConfig, source: Source, rows: Indices, base: Pretrained, template: str
) -> ValidationAnswers | None:
    """Prepare the validation records that are answered while the model trains; None for none.

    Raises:
        InputError: there are none, but `eval.answers` wants some, or `eval.patience` a loss.
    """
    if config.eval.patience is not None and not len(rows):
        raise InputError(
            "eval.patience: there is no validation record to judge by; raise the third share of "
            "data.split="
        )
    if config.eval.answers is None:
        return None
    return ValidationAnswers(
        source.pick(rows[: config.eval.answers]),
        template,
        base.tokenizer,
        base.model.config.n_positions,
        config.compile,
    )


def other_callbacks(
    config: TrainConfig,
    base: Pretrained,
    metrics: Metrics,
    run_folder: RunFolder,
    device: str,
    template: str,
) -> list[Callback]:
    """Make the callbacks that nothing is asked of after the training."""
    tracking = Tracking(config, metrics.file, lambda: run_folder.best.lowest_loss)
    callbacks: list[Callback] = [Interruption(), Progress(), EnoughMemory(), tracking]
    if config.eval.sample:
        callbacks.append(SampleAnswer(template, base.tokenizer, config.compile))
    if config.profile:
        callbacks.append(Profile(run_folder.folder / "profile"))
    if device == "mps":
        callbacks.append(EmptyCache())
    return callbacks


def summarise(
    config: TrainConfig,
    source: Source,
    base: Pretrained,
    data: InstructionData,
    device: str,
    precision: Precision,
    metrics: Metrics,
    gate: SanityGate,
    run_folder: RunFolder,
    template: str,
) -> RunSummary:
    """Gather the numbers and the origin of a finished run."""
    rows = metrics.file.rows
    lowest = run_folder.best.lowest_loss
    return RunSummary(
        status="finished",
        steps=int(rows[-1]["step"]),
        epochs=rows[-1]["epoch"],
        tokens_seen=metrics.tokens_seen,
        seconds=round(metrics.seconds, 2),
        tokens_per_sec=round(metrics.tokens_seen / metrics.seconds, 1),
        losses=loss_changes(rows),
        peak_memory_bytes=peak_memory_bytes(device),
        answer_loss_before=gate.loss,
        best_validation_loss=lowest if lowest < float("inf") else None,
        device=device,
        precision=precision,
        data=DataUsed(source.name, source.sha256, overview(data.splits), source.revision),
        checkpoint=CheckpointUsed(base.source, base.revision, base.sha256),
        seed=config.seed,
        versions=versions(),
        config=dataclasses.asdict(config),
        template=template,
    )
