"""One run, from records to a folder that holds all it gave.

Read `fit` first: it lists what a run is. train.py imports this file only when the config has been
checked, since torch and Lightning take seconds to import.
"""

import dataclasses
import logging
from functools import partial
from pathlib import Path

from lightning.pytorch import Callback

from sft.checkpoint.folder import Pretrained
from sft.config.rules import steps_warning
from sft.config.schema import LoraConfig, OptimConfig, TrainConfig
from sft.data.datamodule import InstructionData
from sft.data.overview import overview
from sft.device import (
    Precision,
    check_compiler,
    keep_freed_memory,
    pick_device,
    pick_precision,
    pick_threads,
)
from sft.errors import InputError, counted
from sft.gpt2.lora import add_lora
from sft.gpt2.model import GPT
from sft.latest import LATEST
from sft.objective import CrossEntropy, Objective, Preference
from sft.summaries import RUN_SUMMARY, CheckpointUsed, DataUsed, RunSummary, versions
from sft.training.answers import ValidationAnswers
from sft.training.best import Best, is_exhausted
from sft.training.interruption import Interruption
from sft.training.material import Material, adapter_of, add_reference, load_material, log_material
from sft.training.memory import EnoughMemory
from sft.training.metrics import Metrics
from sft.training.metrics_file import MetricsFile
from sft.training.module import InstructionTuner
from sft.training.mps import EmptyCache
from sft.training.optim import beta2_of
from sft.training.order import in_order
from sft.training.profile import Profile
from sft.training.progress import Progress
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
    made = load_material(config, past, device, precision)

    # Plan the steps, and find the place in the plan where a resumed run goes on.
    steps = total_steps(config, made.data, processes)
    if config.resume:
        past.check(folder, made.made_of)
    out_of_patience = is_exhausted(past.without_better, config.eval.patience)
    nothing_left = past.steps >= steps or out_of_patience
    if nothing_left and (folder / RUN_SUMMARY).exists():
        done = f"all {past.steps} steps are done; to go on, raise epochs= or max_steps="
        if out_of_patience:
            done = f"step {past.steps} was the last that eval.patience allows; raise it to go on"
        log.info(f"{folder}: {done}")
        return

    # Say what is about to run. A tracker that does not answer is found before anything is logged.
    tracker = make_tracker(config.logger, folder, past)
    if changed:
        log.info(changed)
    log_material(config, made)
    resumed = f", resumed at step {past.steps + 1}" if past.steps else ""
    log.info(f"{processes} × {device}, {precision}, {counted(steps, 'step')}{resumed}")
    if warning := steps_warning(config, steps):
        log.warning(warning)

    # Make the trainer.
    if config.objective == "dpo":
        add_reference(config, made, device, precision)
    module = make_module(config, made, steps, device, processes)
    gate = SanityGate(config.eval.batches, config.model.allow_untrained)
    metrics = make_metrics(config, made, folder, module.objective, gate)
    run_folder = make_run_folder(config, made, folder, metrics.best)
    others = other_callbacks(config, made, metrics, run_folder, device)
    callbacks = in_order([gate, metrics, run_folder, *others])
    stop_at = past.steps if nothing_left else -1
    trainer = make_trainer(config, processes, device, precision, callbacks, tracker, stop_at)

    # Fit.
    if trainer.is_global_zero:
        metrics.file.resume(past.steps)
    with explain_out_of_memory(module):
        trainer.fit(module, made.data, ckpt_path=past.checkpoint)
    complete_model(trainer, module.model, run_folder, nothing_left)

    # Finish. A signal may have come when there was no step left for it to stop.
    if trainer.is_global_zero:
        summary = summarise(config, made, device, precision, metrics, gate)
        report_run(folder, summary, metrics.file.rows)
        module.signals.leave_if_noted()


# The parts, in the order in which `fit` calls them


def total_steps(config: TrainConfig, data: InstructionData, processes: int) -> int:
    """Return the optimizer steps of the whole run."""
    planned = data.plan(processes).steps * config.epochs
    return planned if config.max_steps == -1 else min(planned, config.max_steps)


def make_module(
    config: TrainConfig, made: Material, steps: int, device: str, processes: int
) -> InstructionTuner:
    """Make the LightningModule around the model, which gets its adapter and is compiled here."""
    model = made.base.model
    if adapter := adapter_of(config):
        adapt(made.base, adapter, config.seed)
    model.activation_checkpointing = config.activation_checkpointing
    model.neftune = config.optim.neftune or 0.0
    if config.compile:
        check_compiler(device)
        model.compile_layers()
    return InstructionTuner(
        model,
        with_betas(config.optim, made.data.tokens_per_step(processes)),
        steps,
        config.accumulate,
        config.seed,
        config.on_nonfinite,
        objective_of(config, model),
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


def make_metrics(
    config: TrainConfig, made: Material, folder: Path, objective: Objective, gate: SanityGate
) -> Metrics:
    """Make the callback that measures the training, and answers validation records if asked to.

    Raises:
        InputError: there are no such records, but `eval.answers` wants some, or `eval.patience` a
            loss.
    """
    rows = made.parts["validation"]
    if config.eval.patience is not None and not len(rows):
        raise InputError(
            "eval.patience: there is no validation record to judge by; raise the third share of "
            "data.split="
        )
    answers = None
    if config.eval.answers is not None:
        answers = ValidationAnswers(
            made.source.pick(rows[: config.eval.answers]),
            made.template,
            made.base.tokenizer,
            made.base.model.config.n_positions,
            config.compile,
        )
    file = MetricsFile(folder / "metrics.csv", extra=objective.names)
    return Metrics(config.eval, file, Best(config.eval), answers, gate)


def make_run_folder(config: TrainConfig, made: Material, folder: Path, best: Best) -> RunFolder:
    """Make the callback that writes checkpoints and the best weights into the run's folder."""
    # A model that knew conversations still does after a training on single questions.
    conversations = made.source.conversations or made.base.conversations
    save = partial(
        save_tuned,
        base=made.base,
        lora=adapter_of(config),
        template=made.template,
        folder=folder,
        conversations=conversations,
    )
    return RunFolder(folder, config, made.made_of, best, save, LATEST)


def other_callbacks(
    config: TrainConfig, made: Material, metrics: Metrics, run_folder: RunFolder, device: str
) -> list[Callback]:
    """Make the callbacks from which nothing is read after the training."""
    tracking = Tracking(config, metrics.file, lambda: run_folder.best.lowest_loss)
    callbacks: list[Callback] = [Interruption(), Progress(), EnoughMemory(), tracking]
    if config.eval.sample:
        callbacks.append(SampleAnswer(made.template, made.base.tokenizer, config.compile))
    if config.profile:
        callbacks.append(Profile(run_folder.folder / "profile"))
    if device == "mps":
        callbacks.append(EmptyCache())
    return callbacks


def summarise(
    config: TrainConfig,
    made: Material,
    device: str,
    precision: Precision,
    metrics: Metrics,
    gate: SanityGate,
) -> RunSummary:
    """Gather the numbers and the origin of a finished run."""
    rows = metrics.file.rows
    lowest = metrics.best.lowest_loss
    source = made.source
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
        data=DataUsed(source.name, source.sha256, overview(made.data.splits), source.revision),
        checkpoint=CheckpointUsed(made.base.source, made.base.revision, made.base.sha256),
        seed=config.seed,
        versions=versions(),
        config=dataclasses.asdict(config),
        template=made.template,
    )
