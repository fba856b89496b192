"""Fine-tune a GPT-2 to follow instructions: `python train.py --help`."""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig

from sft.cli import job, log_to, on_devices, run, versions, world_size
from sft.config import PROMPTS, EvaluateConfig, GenerateConfig, TrainConfig
from sft.merge import from_hydra

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer

    from sft.gpt2.device import Precision
    from sft.training.metrics import Metrics


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(composed: Any) -> None:
    """Check the config, find the run's folder, train."""
    with job():
        config, folder = from_hydra(TrainConfig, composed), Path(HydraConfig.get().runtime.output_dir)
        if config.resume is not None:
            from sft.training.resume import resumed_config

            config = resumed_config(config, list(HydraConfig.get().overrides.task))
        if config.evaluate:
            from sft.evaluation.judging import connect

            connect(config.judge)  # a judge that is not there is told before hours of training
        on_devices(config.devices, fit, config, folder)
        if config.evaluate and os.environ.get("RANK", "0") == "0":
            evaluate_run(config, folder)


def fit(config: TrainConfig, folder: Path) -> None:
    """The run, from records to the folder that holds all it gave; one process of it for each device."""
    from sft.data.datamodule import InstructionData
    from sft.data.dataset import load_splits, split_rows
    from sft.data.overview import example_text, overview, overview_text
    from sft.data.prompt import chat_template
    from sft.data.sources import load_source
    from sft.gpt2.checkpoint import load_pretrained, save_pretrained
    from sft.gpt2.device import keep_freed_memory, pick_device, pick_precision
    from sft.training.callbacks import EmptyCache, RunFolder, SampleAnswer, SanityGate
    from sft.training.metrics import Metrics, MetricsFile, Progress
    from sft.training.module import InstructionTuner
    from sft.training.resume import past_steps

    log_to(folder / "train.log")
    log = logging.getLogger("sft")
    device = pick_device(config.device, config.devices)
    precision = pick_precision(config.precision, device)
    keep_freed_memory()

    source = load_source(config.data)
    parts = split_rows(len(source.chosen), config.data.split)
    base = load_pretrained(config.model.checkpoint, config.model.revision, dropout=config.model.dropout)
    template = PROMPTS[config.data.prompt]
    context = base.model.config.n_positions
    max_length, mask_prompt = config.data.max_length, config.data.mask_prompt
    splits = load_splits(source, parts, template, base.tokenizer, max_length, context, mask_prompt)
    numbers = overview(splits)
    log.info(overview_text(numbers))
    log.info(f"one example, with what is learned in ⟦ ⟧:\n{example_text(splits['train'], base.tokenizer)}")

    data = InstructionData(
        splits,
        config.batch_size,
        config.accumulate,
        config.data.shuffle,
        config.seed,
        config.data.workers,
        multiple=64 if device == "mps" else 1,
        bucket=config.data.bucket,
    )
    steps = data.plan(world_size(config.devices)).steps * config.epochs
    steps = steps if config.max_steps == -1 else min(steps, config.max_steps)
    made_of = {"data": source.sha256, "weights": base.sha256}
    done = past_steps(folder, made_of) if config.resume else 0
    if done >= steps and (folder / "summary.json").exists():
        log.info(f"{folder}: all {done} steps are done; to go on, raise epochs= or max_steps=")
        return
    resumed = f", resumed at step {done + 1}" if done else ""
    log.info(f"{world_size(config.devices)} × {device}, {precision}, {steps} steps{resumed}")
    module = InstructionTuner(base.model, config.optim, steps, config.accumulate, config.seed)
    if config.compile:
        base.model.compile_layers()

    def save_model() -> None:
        chat = chat_template(template) if template else None
        save_pretrained(base.model, folder / "model", base.tokenizer, template or None, base.source, chat_template=chat)

    metrics = Metrics(config.eval, MetricsFile(folder / "metrics.csv"))
    gate = SanityGate(config.eval.batches, config.model.allow_untrained)
    run_folder = RunFolder(folder, config, made_of, save_model, latest=Path("outputs/latest"))
    callbacks: list[Callback] = [Progress(), gate, metrics, run_folder]
    if config.eval.sample:
        callbacks.append(SampleAnswer(template, base.tokenizer, config.compile))
    if device == "mps":
        callbacks.append(EmptyCache())
    trainer = make_trainer(config, folder, device, precision, callbacks, stop_at=steps if done >= steps else -1)
    if trainer.is_global_zero:
        metrics.file.resume(done)
    trainer.fit(module, data, ckpt_path=folder / "checkpoints" / "last.ckpt" if config.resume else None)
    if not trainer.is_global_zero:
        return
    if not (folder / "model").exists():  # of a run that was cut off between its last step and its end
        save_model()
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


def make_trainer(
    config: TrainConfig, folder: Path, device: str, precision: Precision, callbacks: list[Callback], stop_at: int
) -> Trainer:
    """Lightning's trainer, without what the callbacks do better.

    Args:
        stop_at: do not train on from this step, -1: no limit. Otherwise the callbacks end the run, since Lightning
            would leave out the last validation.
    """
    from lightning.pytorch import Trainer
    from lightning.pytorch.loggers import TensorBoardLogger

    from sft.training.callbacks import SyncedCheckpointIO

    return Trainer(
        accelerator=device,
        devices=config.devices,
        num_nodes=world_size(config.devices) // config.devices,
        strategy="ddp" if world_size(config.devices) > 1 else config.strategy,
        precision=precision,
        max_epochs=config.epochs,
        max_steps=stop_at,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.optim.grad_clip,
        logger=TensorBoardLogger(folder, name="", version="tensorboard"),
        callbacks=callbacks,
        plugins=[SyncedCheckpointIO()],
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_model_summary=False,
    )


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
    log.info(f"\n{table(summary)}\n\nAll of it is in {where}. Next: python evaluate.py run={where}")


if __name__ == "__main__":
    run(main)
