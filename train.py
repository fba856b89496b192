"""Fine-tune a GPT-2 to follow instructions: `python train.py --help`."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig

from sft.claims import claimed_by_rank_0
from sft.cli import job, log_to, on_devices, run, versions, world_size
from sft.config import PROMPTS, EvaluateConfig, GenerateConfig, InputError, LoraConfig, TrainConfig
from sft.folders import claim_job, in_sweep, is_rank_0, which_run
from sft.merge import from_hydra
from sft.shell import setting
from sft.sweep import note_job

if TYPE_CHECKING:
    from lightning.pytorch import Callback

    from sft.gpt2.checkpoint import Pretrained
    from sft.training.metrics import Metrics


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(composed: Any) -> float | None:
    """Check the config, find the run's folder, train.

    Returns:
        The best validation loss, for a sweeper that searches; None if the job failed, or has none.
    """
    with job():
        config, folder = from_hydra(TrainConfig, composed), Path(HydraConfig.get().runtime.output_dir)
        claim_job(folder)
        config.resume = which_run(config.resume, folder)
        if config.resume is not None:
            from sft.training.resume import all_keys, resumed_config

            # The jobs of a sweep are compared with each other, so each must have all the settings of its row.
            given = all_keys(config) if in_sweep() else list(HydraConfig.get().overrides.task)
            config = resumed_config(config, given)
        check_given(config, list(HydraConfig.get().overrides.task))
        if config.evaluate:
            from sft.evaluation.judging import connect

            connect(config.judge)  # a judge that is not there is told before hours of training
        on_devices(config.devices, fit_rank, config, folder)
        if in_sweep():
            check_length(config, folder)
            note_job("trained")
        if config.evaluate and os.environ.get("RANK", "0") == "0":
            evaluate_run(config, folder)
        return best_loss(folder)
    return None


def best_loss(folder: Path) -> float | None:
    """The best validation loss of a finished run; None if it took none, or on a rank ahead of the one that writes."""
    path = folder / "summary.json"
    found: float | None = None
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))["best_validation_loss"]
    return found


def check_given(config: TrainConfig, overrides: list[str]) -> None:
    """Raises InputError for a key that was given but would not be used."""
    for problem in config.check():  # once more, now that resume=auto has become a run or None
        raise InputError(problem)
    for key in (override.lstrip("+~").split("=")[0] for override in overrides):
        if config.lora.kind == "none" and key.startswith("lora."):
            raise InputError(f"{key}: would not be read without an adapter; add lora=default")
    if config.strategy == "fsdp" and world_size(config.devices) == 1:
        raise InputError("strategy: fsdp divides a model among devices, but there is one; add devices=N")


def check_length(config: TrainConfig, folder: Path) -> None:
    """Raises InputError if a job of a sweep found a run that had ended already, by other limits than the job's."""
    path = folder / "summary.json"
    past = json.loads(path.read_text(encoding="utf-8"))["config"] if path.exists() else {}
    for key in ("epochs", "max_steps"):
        wanted = getattr(config, key)
        if past.get(key, wanted) != wanted:
            raise InputError(
                f"{key}: {wanted}, but the run in {folder} ended with {key}={past[key]} and has nothing left to do; "
                "give the same value, a larger one, or a new hydra.sweep.dir="
            )


def fit_rank(config: TrainConfig, folder: Path) -> None:
    """Call `fit`, with a claim on the folder by rank 0 if it is not in the process that claimed it already."""
    with claimed_by_rank_0(folder) if is_rank_0() else nullcontext():
        fit(config, folder)


def fit(config: TrainConfig, folder: Path) -> None:
    """The run, from records to the folder that holds all it gave; one process of it for each device."""
    from sft.data.datamodule import InstructionData
    from sft.data.dataset import load_splits, split_rows
    from sft.data.overview import example_text, overview, overview_text, unused_text
    from sft.data.sources import load_source
    from sft.gpt2.checkpoint import load_pretrained
    from sft.gpt2.device import DTYPES, check_compiler, keep_freed_memory, pick_device, pick_precision, row_multiple
    from sft.training.callbacks import EmptyCache, RunFolder, SampleAnswer, SanityGate
    from sft.training.interruption import Interruption
    from sft.training.loggers import Tracking, make_logger
    from sft.training.memory import EnoughMemory
    from sft.training.metrics import Metrics, MetricsFile, Progress
    from sft.training.module import InstructionTuner
    from sft.training.resume import Past, past_of
    from sft.training.saving import save_if_cut_off, save_tuned
    from sft.training.trainer import make_trainer, memory_needed

    log_to(folder / "train.log")
    log = logging.getLogger("sft")
    device = pick_device(config.device, config.devices)
    precision = pick_precision(config.precision, device)
    keep_freed_memory()

    past = past_of(folder) if config.resume else Past()
    source = load_source(config.data, past.made_of.get("data"))
    parts = split_rows(len(source.chosen), config.data.split)
    lora = config.lora if config.lora.kind != "none" else None
    base = load_pretrained(
        config.model.checkpoint,
        config.model.revision,
        dropout=config.model.dropout,
        linear_dtype=DTYPES[precision] if lora else None,  # as they are multiplied: training leaves them as they are
    )
    template = PROMPTS[config.data.prompt]
    context = base.model.config.n_positions
    max_length, mask_prompt = config.data.max_length, config.data.mask_prompt
    splits = load_splits(source, parts, template, base.tokenizer, max_length, context, mask_prompt)
    data = InstructionData(
        splits,
        config.batch_size,
        config.accumulate,
        config.data.shuffle,
        config.seed,
        config.data.workers,
        multiple=row_multiple(device),
        bucket=config.data.bucket,
    )
    steps = data.plan(world_size(config.devices)).steps * config.epochs
    steps = steps if config.max_steps == -1 else min(steps, config.max_steps)
    made_of = {"data": source.sha256, "weights": base.sha256}
    if config.resume:
        past.check(folder, made_of)
    done = past.steps
    if done >= steps and (folder / "summary.json").exists():
        log.info(f"{folder}: all {done} steps are done; to go on, raise epochs= or max_steps=")
        return
    logger = make_logger(config.logger, folder, past)

    numbers = overview(splits)
    log.info(overview_text(numbers))
    if unused := unused_text(source.path, source.unused):
        log.info(unused)
    log.info(f"one example, with what is learned in ⟦ ⟧:\n{example_text(splits['train'], base.tokenizer)}")
    resumed = f", resumed at step {done + 1}" if done else ""
    log.info(f"{world_size(config.devices)} × {device}, {precision}, {steps} steps{resumed}")
    if lora:
        adapt(base, lora, config.seed)
    module = InstructionTuner(base.model, config.optim, steps, config.accumulate, config.seed, config.on_nonfinite)
    base.model.activation_checkpointing = config.activation_checkpointing
    if config.compile:
        check_compiler(device)
        base.model.compile_layers()

    metrics = Metrics(config.eval, MetricsFile(folder / "metrics.csv"))
    gate = SanityGate(config.eval.batches, config.model.allow_untrained)
    interruption = Interruption()
    save_model = partial(save_tuned, base=base, lora=lora, template=template, folder=folder)
    run_folder = RunFolder(folder, config, made_of, save_model, interruption, latest=Path("outputs/latest"))
    tracking = Tracking(config, metrics.file, lambda: run_folder.best)
    callbacks: list[Callback] = [interruption, Progress(), EnoughMemory(), gate, metrics, run_folder, tracking]
    if config.eval.sample:
        callbacks.append(SampleAnswer(template, base.tokenizer, config.compile))
    if device == "mps":
        callbacks.append(EmptyCache())
    stop_at = steps if done >= steps else -1
    trainer = make_trainer(config, world_size(config.devices), device, precision, callbacks, logger, stop_at)
    if trainer.is_global_zero:
        metrics.file.resume(done)
    with memory_needed(module):
        trainer.fit(module, data, ckpt_path=past.checkpoint)
    save_if_cut_off(trainer, module.model, run_folder, nothing_left=done >= steps)
    if not trainer.is_global_zero:
        return
    summarise_run(
        config,
        folder,
        metrics,
        {
            "answer_loss_before": gate.loss,
            "best_validation_loss": run_folder.best,
            "device": device,
            "precision": precision,
            "data": {"path": str(source.path), "sha256": source.sha256, "splits": numbers},
            "checkpoint": {"source": base.source, "revision": base.revision, "sha256": base.sha256},
        },
    )
    interruption.leave()  # asked for when there was no step any more


def adapt(base: Pretrained, config: LoraConfig, seed: int) -> None:
    """Freeze the model and give it an adapter.

    Raises:
        InputError: it was loaded from an adapter, beside which no other can be kept.
    """
    from sft.gpt2.lora import add_lora

    if base.adapter:
        raise InputError(
            f"model.checkpoint: {base.source} is an adapter, and a new one needs a whole model beside it; give the "
            "model/ folder of its run"
        )
    add_lora(base.model, config, seed)
    sizes = [(p.numel(), p.requires_grad) for p in base.model.parameters()]
    trained, every = sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)
    logging.getLogger("sft").info(f"LoRA: {trained:,} of {every:,} parameters are trained")


def evaluate_run(config: TrainConfig, folder: Path) -> None:
    """What evaluate.py would do with this run."""
    from evaluate import evaluate

    alone = "LOCAL_RANK" in os.environ  # torchrun's other processes have ended
    settings = EvaluateConfig(
        config.data,
        GenerateConfig(),
        run=str(folder),
        split=config.eval.split,
        seed=config.seed,
        device=config.device,
        devices=1 if alone else config.devices,
        precision=config.precision,
        judge=config.judge,
    )
    evaluate(settings, [])


def summarise_run(config: TrainConfig, folder: Path, metrics: Metrics, facts: dict[str, Any]) -> None:
    """Write the curves, `summary.json` and the model's card, and say on the terminal what came of the run."""
    from sft.card import write_card
    from sft.files import write_json
    from sft.training.summary import plot_losses, summarise, table

    summary = summarise(metrics, facts["device"]) | facts
    summary |= {"seed": config.seed, "versions": versions(), "config": dataclasses.asdict(config)}
    plot_losses(metrics.file.rows, folder)
    write_json(folder / "summary.json", summary)
    write_card(folder)
    where = os.path.relpath(folder)
    log = logging.getLogger("sft")
    split = "" if facts["data"]["splits"]["test"]["records"] else " split=train"
    log.info(f"\n{table(summary)}\n\nAll of it is in {where}. Next: python evaluate.py {setting('run', where)}{split}")


if __name__ == "__main__":
    run(main)
