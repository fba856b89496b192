"""Fine-tune a GPT-2 to follow instructions: `python train.py --help`."""

import dataclasses
import logging
import os
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig

from sft.cli import job, log_to, on_devices, run
from sft.config import PROMPTS, TrainConfig
from sft.merge import from_hydra


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(composed: Any) -> None:
    """Check the config, find the run's folder, train."""
    with job():
        config, folder = from_hydra(TrainConfig, composed), Path(HydraConfig.get().runtime.output_dir)
        if config.resume is not None:
            from sft.training.resume import resumed_config

            config = resumed_config(config, list(HydraConfig.get().overrides.task))
        on_devices(config.devices, fit, config, folder)


def fit(config: TrainConfig, folder: Path) -> None:
    """The run, from records to the folder that holds all it gave; one process of it for each device."""
    import lightning.pytorch as pl
    from lightning.pytorch.loggers import TensorBoardLogger

    from sft.data.datamodule import InstructionData
    from sft.data.dataset import encode_splits, split_records
    from sft.data.overview import example_text, overview, overview_text
    from sft.data.sources import load_source
    from sft.gpt2.checkpoint import load_pretrained, save_pretrained
    from sft.gpt2.device import keep_freed_memory, pick_device, pick_precision
    from sft.summary import versions, write_json
    from sft.training.callbacks import EmptyCache, RunFolder, SampleAnswer, SanityGate, SyncedCheckpointIO
    from sft.training.metrics import Metrics, MetricsFile, Progress
    from sft.training.module import InstructionTuner
    from sft.training.resume import last_checkpoint, steps_done
    from sft.training.summary import plot_losses, summarise, table

    log_to(folder / "train.log")
    log = logging.getLogger("sft")
    device = pick_device(config.device)
    precision = pick_precision(config.precision, device)
    keep_freed_memory()

    source = load_source(config.data)
    parts = split_records(source.records, config.data.split)
    base = load_pretrained(config.model.checkpoint, config.model.revision, dropout=config.model.dropout)
    template = PROMPTS[config.data.prompt]
    context = base.model.config.n_positions
    splits = encode_splits(parts, template, base.tokenizer, config.data.max_length, context, config.data.mask_prompt)
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
    )
    steps = data.plan(config.devices).steps * config.epochs
    steps = steps if config.max_steps == -1 else min(steps, config.max_steps)
    if config.resume and steps_done(folder) >= steps:
        log.info(f"{folder}: all {steps} steps are done; to go on, raise epochs= or max_steps=")
        return
    module = InstructionTuner(base.model, config.optim, steps, config.accumulate, config.seed)
    if config.compile:
        base.model.compile_layers()

    def save_model() -> None:
        save_pretrained(base.model, folder / "model", base.tokenizer, prompt=template or None, base=base.source)

    metrics = Metrics(config.eval, MetricsFile(folder / "metrics.csv"))
    gate = SanityGate(config.eval.batches, config.model.allow_untrained)
    run_folder = RunFolder(folder, config, save_model, latest=Path("outputs/latest"))
    callbacks: list[pl.Callback] = [Progress(), gate, metrics, run_folder]
    if config.eval.sample:
        callbacks.append(SampleAnswer(template, base.tokenizer))
    if device == "mps":
        callbacks.append(EmptyCache())
    trainer = pl.Trainer(
        accelerator=device,
        devices=config.devices,
        strategy="ddp" if config.devices > 1 else config.strategy,
        precision=precision,
        max_epochs=config.epochs,
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
    trainer.fit(module, data, ckpt_path=last_checkpoint(folder) if config.resume else None)
    if not trainer.is_global_zero:
        return
    rows = metrics.file.rows
    summary = summarise(rows, metrics, gate, run_folder, device) | {
        "device": device,
        "precision": precision,
        "seed": config.seed,
        "data": {"path": str(source.path), "sha256": source.sha256, "splits": numbers},
        "checkpoint": {"source": base.source, "revision": base.revision, "sha256": base.sha256},
        "versions": versions(),
        "config": dataclasses.asdict(config),
    }
    plot_losses(rows, folder)
    write_json(folder / "summary.json", summary)
    where = os.path.relpath(folder)
    log.info(f"\n{table(summary)}\n\nAll of it is in {where}. Next: python evaluate.py run={where}")


if __name__ == "__main__":
    run(main)
