"""Too little memory is found before step 1, and finding it changes nothing."""

import dataclasses
import re
from collections.abc import Callable
from contextlib import nullcontext
from itertools import combinations, groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sft.config.schema import TrainConfig
from sft.data.batches import Batch, Examples
from sft.data.datamodule import InstructionData
from sft.data.plan import Plan
from sft.data.splits import Split
from sft.errors import InputError
from sft.gpt2.model import GPT, GPTConfig
from sft.objective import CrossEntropy, Objective
from sft.training import memory
from sft.training.estimate import (
    Shape,
    batch_bytes,
)
from sft.training.memory import EnoughMemory, fits_in_memory
from sft.training.module import InstructionTuner
from tests.training.batches import TINY, make_batch

# What a message advises to change.
KEYS = re.compile(
    r"\b(?:(?:batch_size|accumulate|activation_checkpointing|lora)=\w+|data\.max_length)"
)
Config = Callable[..., TrainConfig]
Run = Callable[..., Path]


def advised(error: pytest.ExceptionInfo[InputError]) -> list[str]:
    return KEYS.findall(str(error.value))


def small_gpu(monkeypatch: pytest.MonkeyPatch, rows: int) -> list[int]:
    """A GPU that holds batches of so many rows; those that it was asked for."""
    asked, honest = [], GPT.token_scores

    def token_scores(
        self: GPT, input_ids: Tensor, labels: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled():
            asked.append(len(input_ids))
            torch.rand(1)
            if len(input_ids) > rows:
                raise torch.OutOfMemoryError(
                    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …"
                )
        return honest(self, input_ids, labels, lengths)

    monkeypatch.setattr(GPT, "token_scores", token_scores)
    return asked


@pytest.mark.parametrize("room", [2, 3])
def test_trying_a_batch_leaves_weights_gradients_and_random_state_alone(
    monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    model, batch = GPT(dataclasses.replace(TINY, dropout=0.1)).train(), make_batch(3, 40)
    small_gpu(monkeypatch, room)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    for accumulated in (False, True):
        fits = fits_in_memory(
            CrossEntropy(model), batch, torch.device("cpu"), nullcontext(), "fp32", accumulated
        )
        assert fits == (room == 3)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU is tried as a GPU is."""
    monkeypatch.setattr(EnoughMemory, "estimate", EnoughMemory.attempt)


@pytest.mark.usefixtures("gpu")
def test_a_batch_too_large_for_the_gpu_is_refused_before_step_1(
    config: Config, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = small_gpu(monkeypatch, 2)
    with pytest.raises(InputError, match=r"^batch_size: .*\b6 records\b") as error:
        run(config(batch_size=6, accumulate=2))
    assert advised(error) == [
        "batch_size=2",
        "accumulate=6",
        "activation_checkpointing=true",
        "data.max_length",
        "lora=default",
    ]
    assert asked == [6, 3, 2]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("taken", "left"),
    [
        ({}, ["activation_checkpointing=true", "data.max_length", "lora=default"]),
        ({"activation_checkpointing": True}, ["data.max_length", "lora=default"]),
        ({"activation_checkpointing": True, "lora": {"kind": "default"}}, ["data.max_length"]),
    ],
)
def test_where_no_batch_size_fits_only_what_is_left_is_advised(
    config: Config,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    taken: dict[str, Any],
    left: list[str],
) -> None:
    small_gpu(monkeypatch, 0)
    with pytest.raises(InputError, match="no smaller one fits") as error:
        run(config(**taken))
    assert advised(error) == left


@pytest.mark.parametrize(("checkpointing", "tried"), [(False, False), (True, True)])
def test_a_resumed_run_is_advised_only_what_it_may_change(
    config: Config, run: Run, monkeypatch: pytest.MonkeyPatch, checkpointing: bool, tried: bool
) -> None:
    """It may find out before its first step, or at it."""
    settings = config(max_steps=2, activation_checkpointing=checkpointing)
    folder = run(settings)
    small_gpu(monkeypatch, 0)
    if tried:
        monkeypatch.setattr(EnoughMemory, "estimate", EnoughMemory.attempt)
    with pytest.raises(InputError) as error:
        run(dataclasses.replace(settings, max_steps=4, resume=str(folder)))
    assert advised(error) == ([] if checkpointing else ["activation_checkpointing=true"])
    assert ("new run" in str(error.value)) is checkpointing


@pytest.mark.parametrize("where", ["configure_optimizers", "mean_loss"])
def test_memory_that_ends_before_the_first_batch_is_not_blamed_on_a_batch(
    config: Config, run: Run, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """It ends in the setup, or in the first loss probe."""

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …")

    monkeypatch.setattr(InstructionTuner, where, full)
    with pytest.raises(InputError, match=r"^model: .*\(CUDA out of memory\)"):
        run(config())


def test_a_smaller_batch_is_not_advised_for_one_record(
    config: Config, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_gpu(monkeypatch, 0)
    with pytest.raises(InputError, match=r"^batch_size: .*\(CUDA out of memory\)") as error:
        run(config(batch_size=1))
    assert advised(error) == ["activation_checkpointing=true", "data.max_length", "lora=default"]
    assert "lower batch_size" not in str(error.value)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_trying_the_heaviest_batch_does_not_change_the_run(
    config: Config, run: Run, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    settings, tried, trained = config(model__dropout=0.2, epochs=2, accumulate=accumulate), [], []
    honest, step = memory.fits_in_memory, InstructionTuner.training_step

    def noted(
        objective: Objective,
        batch: Batch,
        device: Any,
        context: Any,
        state_to_come: str | None,
        accumulated: bool,
    ) -> bool:
        assert objective.model.training
        assert state_to_come
        assert accumulated == (settings.accumulate > 1)
        tried.append(int(batch.lengths.sum()))
        return honest(objective, batch, device, context, state_to_come, accumulated)

    def training_step(self: InstructionTuner, batch: Batch, batch_idx: int) -> Tensor:
        trained.append(int(batch.lengths.sum()))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(memory, "fits_in_memory", noted)
    monkeypatch.setattr(InstructionTuner, "training_step", training_step)
    first = run(settings)
    assert tried == [max(trained)]
    monkeypatch.setattr(EnoughMemory, "on_train_start", lambda *_: None)
    second = run(settings, "untried")
    weights = [
        torch.load(path / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for path in (first, second)
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize("free", [10**15, None, 2_700_000_000])
def test_an_estimate_beyond_the_free_memory_warns(
    config: Config, run: Run, monkeypatch: pytest.MonkeyPatch, free: int | None
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: free)
    monkeypatch.setattr(memory, "batch_bytes", lambda model, shape, *_: shape.rows * 10**9)
    text = (run(config(max_steps=1)) / "train.log").read_text()
    lines = [line for line in text.splitlines() if "by an estimate" in line]
    assert len(lines) == (free == 2_700_000_000)
    for line in lines:
        for part in ("4 records", "48 tokens", "4.8 GiB", "2.5 GiB"):
            assert part in line, part
        assert KEYS.findall(line)[:3] == [
            "batch_size=2",
            "accumulate=2",
            "activation_checkpointing=true",
        ]


def make_data(sizes: list[tuple[int, int]], batch_size: int, **settings: Any) -> InstructionData:
    """Make data of records with so many tokens in prompt and answer."""
    lengths = np.array([sum(size) for size in sizes])
    answers = [[place >= prompt for place in range(prompt + size)] for prompt, size in sizes]
    examples = Examples(
        tokens=np.arange(lengths.sum()) % 400,
        answers=np.concatenate(answers),
        starts=lengths.cumsum() - lengths,
        sizes=lengths,
        prompts=np.array([prompt for prompt, _ in sizes], np.int32),
        records=np.arange(len(sizes)),
        eot=0,
        max_length=300,
        mask_prompt=True,
        cut=0,
        dropped=0,
    )
    return InstructionData(
        {"train": Split(examples, np.zeros(0, np.uint64), np.zeros(0, np.int64), 0, None)},
        batch_size,
        **settings,
    )


def heaviest_of(
    data: InstructionData, size: int, steps: tuple[int, int], config: GPTConfig = TINY
) -> list[int]:
    """The rows of the batch of which most is expected in these steps."""
    trainer: Any = SimpleNamespace(
        world_size=1,
        global_rank=0,
        global_step=steps[0],
        precision_plugin=SimpleNamespace(precision="32-true"),
    )
    module: Any = SimpleNamespace(
        model=GPT(config), trainer=trainer, device=torch.device("cpu"), total_steps=steps[1]
    )
    return sorted(memory.heaviest(module, data, size).records.tolist())


def test_the_heaviest_batch_may_have_fewer_tokens_than_another() -> None:
    few_words = dataclasses.replace(TINY, vocab_size=50)
    learned = make_data([(290, 2), (2, 270), (1, 1)], 1, shuffle=False)
    assert heaviest_of(learned, 1, (0, 3), dataclasses.replace(TINY, vocab_size=5000)) == [1]
    assert heaviest_of(learned, 1, (0, 3), few_words) == [0]
    padded = make_data([(60, 2)] * 5 + [(240, 2)] + [(2, 2)] * 4, 5, shuffle=False)
    assert heaviest_of(padded, 5, (0, 2), few_words) == [5, 6, 7, 8, 9]


def test_the_heaviest_batch_is_one_that_remains_to_be_trained() -> None:
    data = make_data([(2, size) for size in (90, 10, 50, 20, 70, 30, 40, 80)], 2, shuffle=False)
    assert heaviest_of(data, 2, (0, 8)) == [0, 1]
    assert heaviest_of(data, 2, (1, 4)) == [6, 7]
    assert heaviest_of(data, 2, (1, 3)) == [4, 5]
    assert heaviest_of(data, 1, (1, 3)) == [4]
    assert heaviest_of(data, 2, (2, 5)) == [0, 1]


@pytest.mark.parametrize(("accumulate", "ranks"), [(1, 1), (4, 1), (4, 2)])
def test_remaining_batches_begin_and_end_at_optimizer_steps(accumulate: int, ranks: int) -> None:
    plan = Plan(21, 2, accumulate, ranks, shuffle=True)
    whole = [micro for epoch in range(3) for micro in plan.micro_batches(epoch, ranks - 1)]
    steps = [list(group) for _, group in groupby(whole, key=lambda micro: micro.step.tobytes())]
    assert len(steps) == 3 * plan.steps
    for done, end in combinations(range(len(steps) + 1), 2):
        found = [micro for epoch in memory.remaining(plan, ranks - 1, done, end) for micro in epoch]
        expected = [micro for step in steps[done:end] for micro in step]
        assert [micro.rows.tolist() for micro in found] == [
            micro.rows.tolist() for micro in expected
        ]


def test_shapes_computed_without_batches_are_those_of_the_batches() -> None:
    examples = (
        make_data([(3, 7 * size % 41 + 1) for size in range(30)] + [(290, 9)], 4)
        .splits["train"]
        .examples
    )
    parts = [np.arange(start, min(start + 4, 31)) for start in range(0, 31, 4)]
    expected = [Shape.of(examples.batch(part.tolist(), multiple=16)) for part in parts]
    found = memory.shapes(examples, parts, 16)
    assert [Shape(*shape) for shape in zip(*found, strict=True)] == expected
    model = GPT(TINY)
    for device in ("cpu", "cuda", "mps"):
        each = [batch_bytes(model, shape, torch.bfloat16, device) for shape in expected]
        assert batch_bytes(model, found, torch.bfloat16, device).tolist() == each
