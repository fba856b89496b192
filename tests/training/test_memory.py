"""The estimate is what torch keeps, and a try leaves nothing behind."""

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sft.config import InputError, LoraConfig, TrainConfig
from sft.data.dataset import Batch
from sft.gpt2.lora import add_lora
from sft.gpt2.model import GPT, GPTConfig
from sft.training import memory
from sft.training.memory import EnoughMemory, Shape, most_rows, of_batch, of_copies, of_layer, of_weights, runs
from sft.training.module import InstructionTuner
from tests.kept import loss_and_kept

TINY = GPTConfig(n_layer=3, n_head=4, n_embd=64, vocab_size=500, n_positions=320)
WIDE = GPTConfig(n_layer=2, n_head=2, n_embd=128, vocab_size=900, n_positions=320, n_inner=256)
Config, Run = Callable[..., TrainConfig], Callable[..., Path]


def make_batch(rows: int, length: int, masked: bool = False) -> Batch:
    """Of rows that are ever shorter, whose first half may be a prompt that is not learned."""
    lengths = torch.tensor([length - 9 * row for row in range(rows)])
    ids = torch.arange(rows * length).view(rows, length) % 400
    places = torch.arange(length)
    learned = (places < lengths[:, None]) & (places >= (length // 2 if masked else 0))
    return Batch(ids, ids.where(learned, -100), lengths, torch.arange(rows), 1, 1)


@pytest.mark.parametrize(("config", "dtype"), product([TINY, WIDE], [torch.float32, torch.bfloat16]))
@pytest.mark.parametrize(("rows", "length", "masked"), [(3, 96, False), (6, 128, True), (2, 300, False)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_estimate_of_a_batch_is_what_torch_keeps(
    config: GPTConfig, dtype: torch.dtype, rows: int, length: int, masked: bool, checkpointing: bool
) -> None:
    model = GPT(config).train()
    model.activation_checkpointing = checkpointing
    batch = make_batch(rows, length, masked)
    found = of_batch(model, Shape.of(batch), dtype, "cpu")
    if checkpointing:  # a layer whole, and the cache of autocast, are no part of the graph after the forward pass
        found -= of_layer(config, Shape.of(batch), dtype, "cpu") + of_copies(model, dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss, kept = loss_and_kept(model, batch.input_ids, batch.labels, batch.lengths)
    assert loss.isfinite()
    assert found == pytest.approx(kept, rel=0.01)


def test_an_adapter_is_all_that_is_trained() -> None:
    model = GPT(TINY)
    whole = sum(parameter.numel() for parameter in model.parameters())
    assert of_weights(model) == 16 * whole
    model.to(torch.bfloat16)
    add_lora(model, LoraConfig(kind="default", rank=2))
    adapter = sum(parameter.numel() for parameter in model.parameters()) - whole
    assert 0 < adapter < whole / 10
    assert of_weights(model) == 2 * whole + 16 * adapter


def test_the_most_rows_need_no_more_than_there_is_and_one_more_does() -> None:
    model, limit = GPT(TINY), 100_000_000
    rows = most_rows(model, 64, 32, torch.float32, "cpu", limit)
    sizes = [
        of_weights(model) + of_batch(model, Shape(n, 64, n * 64, n * 32), torch.float32, "cpu")
        for n in (rows, rows + 1)
    ]
    assert 1 < rows
    assert sizes[0] <= limit < sizes[1]
    assert most_rows(model, 64, 32, torch.float32, "cpu", of_weights(model)) == 0


def small_gpu(monkeypatch: pytest.MonkeyPatch, rows: int) -> list[int]:
    """A GPU that holds batches of so many rows; those that it was asked for."""
    asked, honest = [], GPT.token_losses

    def token_losses(self: GPT, input_ids: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            asked.append(len(input_ids))
            torch.rand(1)
            if len(input_ids) > rows:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …")
        return honest(self, input_ids, labels, lengths)

    monkeypatch.setattr(GPT, "token_losses", token_losses)
    return asked


@pytest.mark.parametrize("room", [2, 3])
def test_a_try_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    model, batch = GPT(dataclasses.replace(TINY, dropout=0.1)).train(), make_batch(3, 40)
    small_gpu(monkeypatch, room)
    model._kept.give(torch.zeros(256, 500))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random, kept, free = torch.get_rng_state(), model._kept, list(model._kept._free)
    assert runs(model, batch, torch.device("cpu"), nullcontext(), means=True) == (room == 3)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model._kept is kept
    assert len(kept._free) == len(free) == 1
    assert kept._free[0] is free[0]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU is tried as a GPU is."""
    monkeypatch.setattr(EnoughMemory, "estimate", EnoughMemory.attempt)


@pytest.mark.usefixtures("gpu")
def test_a_batch_beyond_the_gpu_is_told_before_step_1(
    config: Config, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = small_gpu(monkeypatch, 2)
    told = (
        r"^batch_size: the GPU's memory does not hold a batch of 6 records of up to \d+ tokens; batch_size=2 "
        r"accumulate=6 would fit, and trains the same; or lower data.max_length, or set activation_checkpointing=true$"
    )
    with pytest.raises(InputError, match=told):
        run(config(batch_size=6, accumulate=2))
    assert asked == [6, 3, 2]


@pytest.mark.usefixtures("gpu")
def test_where_no_batch_fits(config: Config, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    small_gpu(monkeypatch, 0)
    with pytest.raises(InputError, match=r"tokens; no smaller one fits either; lower data.max_length, or set lora="):
        run(config(activation_checkpointing=True))


@pytest.mark.usefixtures("gpu")
def test_a_run_that_was_tried_is_the_same_run(config: Config, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, tried, trained = config(model__dropout=0.2, epochs=2), [], []
    honest, step = memory.runs, InstructionTuner.training_step

    def noted(model: GPT, batch: Batch, *rest: Any, means: bool) -> bool:
        assert model.training
        assert means
        tried.append(int(batch.lengths.sum()))
        return honest(model, batch, *rest, means=means)

    def training_step(self: InstructionTuner, batch: Batch, batch_idx: int) -> Tensor:
        trained.append(int(batch.lengths.sum()))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(memory, "runs", noted)
    monkeypatch.setattr(InstructionTuner, "training_step", training_step)
    first = run(settings)
    assert tried == [max(trained)]
    monkeypatch.setattr(EnoughMemory, "on_train_start", lambda *_: None)
    second = run(settings, "untried")
    weights = [torch.load(path / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for path in (first, second)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize("free", [10**15, None, 2_500_000_000])
def test_an_estimate_beyond_the_free_memory_warns(
    config: Config, run: Run, monkeypatch: pytest.MonkeyPatch, free: int | None
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: free)
    monkeypatch.setattr(memory, "of_batch", lambda model, shape, *_: shape.rows * 10**9)
    text = (run(config(max_steps=1)) / "train.log").read_text()
    lines = [line for line in text.splitlines() if "by an estimate" in line]
    assert len(lines) == (free == 2_500_000_000)
    for line in lines:
        assert " of 4 records of up to 48 tokens may take 3.7 GiB more memory, by an estimate, and 2.3 GiB are" in line
        assert (
            "free; batch_size=2 accumulate=2 would fit, and trains the same; or lower data.max_length, or set " in line
        )


def test_the_free_memory_of_this_machine() -> None:
    found = memory.free_memory("cpu")
    assert (found is None) == (not Path("/proc/meminfo").exists())
    assert found is None or 10**6 < found < 10**14
