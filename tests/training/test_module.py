"""One optimizer step: its loss and gradient are those of one big batch, however it is divided."""

import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch.distributed.tensor import DTensor

from sft.checkpoint.folder import Pretrained, load_pretrained
from sft.config.schema import OptimConfig, TrainConfig
from sft.data.batches import Batch
from sft.data.datamodule import InstructionData
from sft.data.sources import load_source
from sft.data.splits import encode_splits
from sft.gpt2.lora import add_lora
from sft.gpt2.model import GPT
from sft.prompts import PROMPTS
from sft.training.module import InstructionTuner
from sft.training.sharding import Sharded, unsharded, unsharded_model
from tests.fixtures.divided import divided
from tests.training.processes import finish

Config = Callable[..., TrainConfig]


class SGDTuner(InstructionTuner):
    """Keeps the gradients of the first step and takes steps that are linear in them."""

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        if not hasattr(self, "gradients"):
            found = {
                name: p.grad for name, p in self.model.named_parameters() if p.grad is not None
            }
            self.gradients = {name: unsharded(gradient).clone() for name, gradient in found.items()}
            self.first_loss = self.step_loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.model.parameters(), lr=0.1)


def load(config: TrainConfig) -> Pretrained:
    loaded = load_pretrained(config.model.checkpoint)
    if config.lora.kind != "none":
        add_lora(loaded.model, config.lora)
    return loaded


def train_sgd(config: TrainConfig, out: Path) -> None:
    """An epoch over 37 records with SGD; rank 0 keeps what came of it."""
    base = load(config)
    parts = divided(load_source(config.data).records[:43], config.data.split)  # 37 / 0 / 6
    splits = encode_splits(
        parts, PROMPTS["phi3"], base.tokenizer, None, 128, config.data.mask_prompt
    )
    data = InstructionData(splits, config.batch_size, config.accumulate, seed=5)
    base.model.activation_checkpointing = config.activation_checkpointing
    module = SGDTuner(base.model, config.optim, total_steps=100, accumulate=config.accumulate)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=config.devices,
        strategy=Sharded() if config.strategy == "fsdp" else config.strategy,
        accumulate_grad_batches=config.accumulate,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, data)
    weights = unsharded_model(module.model).state_dict()
    if trainer.is_global_zero:
        kept = {"gradients": module.gradients, "weights": weights, "loss": module.first_loss}
        kept["held"] = sum(
            (p.to_local() if isinstance(p, DTensor) else p).numel() for p in module.parameters()
        )
        torch.save(kept | {"validation": module.validation_loss, "steps": trainer.global_step}, out)


def one_big_batch(config: TrainConfig) -> tuple[dict[str, torch.Tensor], GPT, float]:
    """Do the same in plain torch, 16 records a step.

    Returns:
        The gradients of the first step, the model after all steps, the loss of the first step.
    """
    from sft.data.plan import Plan

    base = load(config)
    parts = divided(load_source(config.data).records[:43], config.data.split)
    examples = encode_splits(
        parts, PROMPTS["phi3"], base.tokenizer, None, 128, config.data.mask_prompt
    )["train"].examples
    gradients: dict[str, torch.Tensor] = {}
    for micro in Plan(len(examples), 16, shuffle=True, seed=5).micro_batches(0, 0):
        batch = examples.batch(micro.rows.tolist())
        logits = base.model(batch.input_ids)  # padded, over the whole vocabulary
        loss = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten())
        base.model.zero_grad()
        loss.backward()
        if not gradients:
            gradients = {
                name: p.grad.clone()
                for name, p in base.model.named_parameters()
                if p.grad is not None
            }
            first = float(loss)
        with torch.no_grad():
            for p in base.model.parameters():
                if p.grad is not None:
                    p -= 0.1 * p.grad
    return gradients, base.model, first


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "devices", "mask_prompt", "lora", "strategy"),
    [
        (16, 1, 1, False, "none", "auto"),
        (16, 1, 1, True, "none", "auto"),
        (4, 4, 1, False, "none", "auto"),
        (2, 8, 1, True, "none", "auto"),
        (8, 1, 2, False, "none", "ddp"),
        (2, 4, 2, True, "none", "ddp"),
        (2, 4, 2, True, "default", "ddp"),
        (4, 1, 4, False, "none", "ddp"),
        (2, 4, 2, True, "none", "fsdp"),
        (4, 1, 4, False, "none", "fsdp"),
    ],
)
def test_loss_and_gradient_do_not_depend_on_how_a_step_is_divided(
    config: Config,
    tmp_path: Path,
    batch_size: int,
    accumulate: int,
    devices: int,
    mask_prompt: bool,
    lora: str,
    strategy: str,
) -> None:
    settings = config(
        batch_size=batch_size,
        accumulate=accumulate,
        devices=devices,
        strategy=strategy,
        activation_checkpointing=strategy == "fsdp",
        lora={"kind": lora, "alpha": 80.0},  # so that SGD's steps are not too small to be seen
        data__mask_prompt=mask_prompt,
        data__split=[0.87, 0.0, 0.13],
    )
    finish(settings, tmp_path / "out.pt", devices, train_sgd)
    kept = torch.load(tmp_path / "out.pt", weights_only=True)
    gradients, model, loss = one_big_batch(settings)
    assert kept["steps"] == 3  # 37 records: 16, 16 and 5
    assert kept["loss"] == pytest.approx(loss, abs=1e-6)
    ranks = devices if strategy == "fsdp" else 1
    assert kept["held"] == sum(
        -(-len(p) // ranks) * p[0].numel() for p in model.parameters()
    )  # of whole rows
    assert kept["gradients"].keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(kept["gradients"][name], gradient, atol=1e-6, rtol=0)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(kept["weights"][name], weight, atol=1e-6, rtol=0)


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_the_gradient_is_clipped_by_its_whole_norm(
    config: Config, tmp_path: Path, precision: str
) -> None:
    class Norms(InstructionTuner):
        seen: tuple[float, float]

        def optimizer_step(self, *args: object, **kwargs: object) -> None:
            super().optimizer_step(*args, **kwargs)
            self.seen = (
                self.step_loss,
                float(torch.nn.utils.get_total_norm([p.grad for p in self.parameters()])),
            )

    settings = config(batch_size=4)
    base = load_pretrained(settings.model.checkpoint)
    parts = divided(load_source(settings.data).records[:6], [0.7, 0.0, 0.3])
    data = InstructionData(
        encode_splits(parts, PROMPTS["phi3"], base.tokenizer, None, 128, True), 4
    )
    module = Norms(base.model, OptimConfig(grad_clip=0.01), total_steps=1)
    options = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "max_epochs": 1,
    }
    precision = {"32": "32-true"}.get(precision, precision)
    pl.Trainer(accelerator="cpu", precision=precision, gradient_clip_val=0.01, **options).fit(
        module, data
    )
    assert module.seen[1] == pytest.approx(0.01, rel=1e-3)


def alone(checkpoint: Path) -> InstructionTuner:
    """A module with a trainer that does not train."""
    module = InstructionTuner(load_pretrained(checkpoint).model, OptimConfig(), total_steps=1)
    module.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    return module


@pytest.mark.parametrize("broken", [None, float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_is_found_by_its_norm(
    checkpoint: Path, broken: float | None
) -> None:
    module = alone(checkpoint)
    module.step_loss = 1.0
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    if broken is not None:
        module.model.wpe.weight.grad[3, 4] = broken
    module.step_norm = float(module._gradient_norm())
    assert module._is_finite() == (broken is None)
    module.step_loss = float("nan")
    assert not module._is_finite()


def test_an_interrupted_loss_probe_reads_no_more_batches(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, ones = alone(checkpoint), torch.ones(1, 4).long()
    read: list[int] = []

    def batches() -> Iterator[Batch]:
        for number in range(9):
            read.append(number)
            yield Batch(ones, ones, torch.tensor([4]), torch.tensor([0]), 4, 4)

    monkeypatch.setattr(module.signals, "own", lambda: signal.SIGTERM if len(read) == 3 else None)
    module.validate(batches())
    assert module.signals.interrupted
    assert module.signals.agreed == signal.SIGTERM
    assert math.isnan(module.validation_loss)
    assert read == [0, 1, 2]
    module.validate(batches())
    assert read == [0, 1, 2, 0]
