"""AdamW with narrow moments: the same steps, unbiased rounding, exact resume, and its bytes."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from sft.checkpoint.folder import load_pretrained
from sft.config.schema import LoraConfig, Moments, OptimConfig, TrainConfig
from sft.gpt2.fast import LIMITS
from sft.gpt2.lora import add_lora
from sft.training import narrow_adamw
from sft.training.estimate import weight_bytes
from sft.training.narrow_adamw import DITHER, EightBit, NarrowAdamW, dither_table, window
from sft.training.optim import adamw
from sft.training.resume import resumed_config
from tests.fixtures.other_device import DEVICE, other_device
from tests.training.test_resume import equal

Config = Callable[..., TrainConfig]
Run = Callable[..., Path]
NARROW: list[Moments] = ["bf16", "8bit"]
CPU = torch.device("cpu")


def narrow(weight: Tensor, moments: Moments, lr: float = 1e-3, **more: Any) -> NarrowAdamW:
    return NarrowAdamW([{"params": [weight], **more}], lr=lr, betas=(0.9, 0.999), moments=moments)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Numbers of very different sizes, of both signs."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * torch.randn(shape, generator=generator).exp()


# Whole groups; a group that is not full; a vector that keeps fp32.
SHAPES = [(80, 64), (67, 71), (64,)]


@pytest.mark.parametrize(("moments", "tolerance"), [("bf16", 0.005), ("8bit", 0.05)])
def test_the_steps_are_those_of_torchs_adamw(moments: Moments, tolerance: float) -> None:
    first = [drawn(*shape) for shape in SHAPES]
    mine, theirs = ([nn.Parameter(one.clone()) for one in first] for _ in range(2))
    settings: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.1}
    narrowed = NarrowAdamW([{"params": mine}], moments=moments, **settings)
    plain = torch.optim.AdamW(theirs, **settings)
    for step in range(40):
        for left, right in zip(mine, theirs, strict=True):
            left.grad = right.grad = drawn(*left.shape, seed=step % 5)
        narrowed.step()
        plain.step()

    for before, left, right in zip(first, mine, theirs, strict=True):
        moved = (right - before).norm()
        allowed = tolerance if left.numel() > 64 else 1e-6
        assert (left - right).norm() < allowed * moved


@pytest.mark.parametrize("moments", NARROW)
def test_a_second_moment_that_changes_little_does_not_stall(moments: Moments) -> None:
    """Rounded to the nearest, it would end at a third of the gradient's square and less."""
    weight = nn.Parameter(torch.zeros(4096))
    optimizer = narrow(weight, moments)
    is_largest = torch.arange(4096) % 64 == 0
    steps = 1500

    # The first step sets the scale of each group: 0.001. The largest second moment then stays as it
    # is, and the others rise from 0.
    weight.grad = is_largest.float()
    optimizer.step()
    slope = torch.linspace(0.004, 0.02, 4096).view(64, 64).T.flatten()
    weight.grad = slope.where(~is_largest, 0.001**0.5)
    for _ in range(steps):
        optimizer.step()

    form = narrow_adamw.FORMATS[moments](CPU)
    _, second, _ = form.decode(optimizer.state[weight], slice(0, 4096))
    ratio = (second / (slope.square() * (1 - 0.999**steps)))[~is_largest]
    assert ratio.mean() == pytest.approx(1, abs=0.01)
    assert ratio.std() < 0.1


def round_trip(step: int, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    form = EightBit(CPU)
    state = form.zeros(first)
    place = slice(0, len(first))
    form.encode(state, place, step, first.clone(), second.clone())
    found, found_second, _ = form.decode(state, place)
    return found.clone(), found_second.clone()


def largest(numbers: Tensor) -> Tensor:
    """Return the largest absolute value of each number's group."""
    return numbers.view(-1, 64).abs().amax(1).repeat_interleave(64)


def test_8_bits_are_off_by_less_than_a_step_and_right_in_the_mean() -> None:
    first = drawn(1024)
    second = drawn(1024, seed=1).square()
    steps = 256
    found = [round_trip(step, first, second) for step in range(1, steps + 1)]

    share = (first.abs() / largest(first)).sqrt()
    step = (2 * share + 1 / 127) / 127 * largest(first)
    share = (second / largest(second)) ** 0.25
    second_step = ((share + 1 / 255) ** 4 - (share - 1 / 255).clamp(0) ** 4) * largest(second)
    for moment, (numbers, gap) in enumerate([(first, step), (second, second_step)]):
        stored = torch.stack([pair[moment] for pair in found])
        assert ((stored - numbers).abs() <= 1.001 * gap).all()

        # Random numbers would be off by about 0.5 / sqrt(256) = 0.03 steps.
        assert ((stored.mean(0) - numbers).abs() / gap).max() < 0.02


def test_a_gradient_of_0_leaves_the_weights_and_no_nan() -> None:
    weight = nn.Parameter(torch.ones(4096))
    weight.grad = torch.zeros(4096)
    weight.grad[0] = 1
    optimizer = narrow(weight, "8bit", lr=0.5)
    for _ in range(3):
        optimizer.step()
        weight.grad.zero_()
    assert weight[0] < 1
    assert torch.equal(weight[1:], torch.ones(4095))


def test_a_small_gradient_beside_a_large_one_takes_no_long_step() -> None:
    """Its second moment is below the smallest code, and its first one may be rounded up."""
    weight = nn.Parameter(torch.zeros(4096))
    weight.grad = torch.full((4096,), 1e-6)
    weight.grad[::64] = 1
    optimizer = narrow(weight, "8bit", lr=1.0)
    before = weight.detach().clone()
    for _ in range(50):
        optimizer.step()
        assert (weight - before).abs().max() < 10
        before = weight.detach().clone()


def test_the_dither_of_a_position_fills_its_range_and_depends_on_the_step() -> None:
    table = dither_table(CPU)
    assert torch.equal(table[:DITHER].sort().values, torch.arange(DITHER).int())
    place = slice(100, 164)
    found = [window(table, moment, place, step) for moment in (0, 1) for step in (1, 2)]
    assert len({tuple(one.tolist()) for one in found}) == 4

    # The windows of all steps lie within the table.
    size = LIMITS["cpu"].optimizer_slice
    assert all(len(window(table, 0, slice(0, size), step)) == size for step in range(1000))


@pytest.mark.parametrize("moments", NARROW)
def test_the_size_of_a_slice_does_not_change_the_steps(
    moments: Moments, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = []
    for size in (128, 1 << 15):
        limits = {"cpu": dataclasses.replace(LIMITS["cpu"], optimizer_slice=size)}
        monkeypatch.setattr(narrow_adamw, "LIMITS", limits)
        weight = nn.Parameter(drawn(67, 71))
        optimizer = narrow(weight, moments)
        for step in range(3):
            weight.grad = drawn(67, 71, seed=step)
            optimizer.step()
        ends.append((weight.detach(), dict(optimizer.state[weight])))
    assert equal(ends[0], ends[1])


@pytest.mark.parametrize("moments", NARROW)
def test_another_device_takes_the_same_steps_and_the_cpu_never_waits_for_it(
    moments: Moments,
) -> None:
    def stepped(device: torch.device) -> Tensor:
        weight = nn.Parameter(drawn(67, 71).to(device, non_blocking=True))
        optimizer = narrow(weight, moments)
        for step in range(2):
            weight.grad = drawn(67, 71, seed=step).to(device, non_blocking=True)
            optimizer.step()
        return weight.detach()

    here = stepped(CPU)
    with other_device() as waits:
        there = stepped(DEVICE)
        assert not waits
        assert torch.equal(there.cpu(), here)


@pytest.mark.parametrize("moments", NARROW)
def test_a_step_that_the_loss_scaler_of_fp16_skips_changes_nothing(moments: Moments) -> None:
    weight = nn.Parameter(drawn(64, 64))
    optimizer = narrow(weight, moments)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    plain = nn.Parameter(weight.detach().clone())
    other = narrow(plain, moments)
    for factor in (1.0, float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale((weight * factor).square().sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        if factor == 1:
            plain.grad = 2 * plain.detach()
            other.step()
    assert optimizer.state[weight]["step"] == 2
    assert torch.equal(weight, plain)


@pytest.mark.parametrize("moments", NARROW)
def test_a_run_with_narrow_moments_resumes_exactly(
    config: Config, run: Run, moments: Moments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(narrow_adamw, "LEAST_NARROW", 256)
    common: dict[str, Any] = {"accumulate": 2, "epochs": 1, "eval__every": 0, "logger": "none"}
    common |= {"optim__ema": 0.9, "optim__grad_clip": 1.0, "model__dropout": 0.2}
    narrowed = common | {"optim__moments": moments}
    whole = run(config(**narrowed), "whole")

    folder = run(config(**narrowed, max_steps=3), "parts")
    given = dataclasses.replace(config(**common), resume=str(folder))
    resumed = resumed_config(given, ["resume=parts", "max_steps=-1"])
    assert resumed.optim.moments == moments
    run(resumed, "parts")

    ends = [
        torch.load(path / "checkpoints/last.ckpt", weights_only=True) for path in (whole, folder)
    ]
    assert ends[0]["global_step"] == ends[1]["global_step"] == 6
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "average"):
        assert equal(ends[0][key], ends[1][key]), key
    stored = ends[1]["optimizer_states"][0]["state"][0]
    expected = torch.int8 if moments == "8bit" else torch.bfloat16
    assert stored["exp_avg"].dtype == expected


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("moments", get_args(Moments))
def test_the_estimate_has_the_bytes_that_the_moments_take(
    checkpoint: Path, moments: Moments, lora: bool
) -> None:
    model = load_pretrained(checkpoint).model
    if lora:
        add_lora(model, LoraConfig(kind="default", rank=100))
    trained = [one for one in model.parameters() if one.requires_grad]
    assert (
        min(map(torch.numel, trained)) < narrow_adamw.LEAST_NARROW <= max(map(torch.numel, trained))
    )
    optimizer = adamw(model, OptimConfig(moments=moments))
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()

    values = [value for state in optimizer.state.values() for value in state.values()]
    held = sum(value.nbytes for value in values if value.dim())
    weights = sum(one.nbytes for one in model.parameters()) + sum(one.nbytes for one in trained)
    assert weight_bytes(model, moments) == weights + held
