"""The estimate of a batch is what torch keeps, and the free memory is what the machine says."""

from itertools import product
from pathlib import Path

import pytest
import torch

from sft.config.schema import LoraConfig
from sft.gpt2.lora import add_lora
from sft.gpt2.model import GPT, GPTConfig
from sft.training.estimate import (
    Shape,
    batch_bytes,
    copy_bytes,
    free_memory,
    layer_bytes,
    weight_bytes,
)
from tests.benchmarks.memory import most_rows
from tests.kept import loss_and_kept
from tests.training.batches import TINY, WIDE, make_batch


@pytest.mark.parametrize(
    ("config", "dtype"), product([TINY, WIDE], [torch.float32, torch.bfloat16])
)
@pytest.mark.parametrize(
    ("rows", "length", "masked"), [(1, 40, False), (3, 96, False), (6, 128, True), (2, 300, False)]
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_estimate_of_a_batch_is_what_torch_keeps(
    config: GPTConfig, dtype: torch.dtype, rows: int, length: int, masked: bool, checkpointing: bool
) -> None:
    model = GPT(config).train()
    model.activation_checkpointing = checkpointing
    batch = make_batch(rows, length, masked)
    found = batch_bytes(model, Shape.of(batch), dtype, "cpu")
    if (
        checkpointing
    ):  # a layer whole, and the cache of autocast, are no part of the graph after the forward pass
        found -= layer_bytes(config, Shape.of(batch), dtype, "cpu") + copy_bytes(model, dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss, kept = loss_and_kept(model, batch.input_ids, batch.labels, batch.lengths)
    assert loss.isfinite()
    assert found == pytest.approx(kept, rel=0.01)


def test_frozen_weights_need_no_gradient_and_no_optimizer_state() -> None:
    model = GPT(TINY)
    whole = sum(parameter.numel() for parameter in model.parameters())
    assert weight_bytes(model) == 16 * whole
    model.to(torch.bfloat16)
    add_lora(model, LoraConfig(kind="default", rank=2))
    adapter = sum(parameter.numel() for parameter in model.parameters()) - whole
    assert 0 < adapter < whole / 10
    assert weight_bytes(model) == 2 * whole + 16 * adapter


def test_most_rows_fit_and_one_more_does_not() -> None:
    model, limit = GPT(TINY), 100_000_000
    rows = most_rows(model, 64, 32, torch.float32, "cpu", limit)
    sizes = [
        weight_bytes(model) + batch_bytes(model, Shape(n, 64, n * 64, n * 32), torch.float32, "cpu")
        for n in (rows, rows + 1)
    ]
    assert 1 < rows
    assert sizes[0] <= limit < sizes[1]
    assert most_rows(model, 64, 32, torch.float32, "cpu", weight_bytes(model)) == 0


def test_free_memory_of_this_machine_is_plausible() -> None:
    found = free_memory("cpu")
    assert (found is None) == (not Path("/proc/meminfo").exists())
    assert found is None or 10**6 < found < 10**14


@pytest.mark.parametrize("files", [0, 700])
@pytest.mark.parametrize(
    ("line", "names", "inactive"),
    [
        ("0::{}", ("memory.max", "memory.current"), "inactive_file"),
        (
            "4:memory:{}",
            ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
            "total_inactive_file",
        ),
    ],
)
def test_control_groups_limit_the_free_memory(
    tmp_path: Path, line: str, names: tuple[str, str], inactive: str, files: int
) -> None:
    def write(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def limit(group: str, most: str, used: str) -> None:
        for name, value in zip(names, (most, used), strict=True):
            kind, _, name = f"sys/fs/cgroup/{name}".rpartition("/")
            write(f"{kind}/{group}/{name}", f"{value}\n")

    assert free_memory("cpu", tmp_path) is None
    write("proc/meminfo", "MemTotal:  9 kB\nMemAvailable:  8 kB\n")
    write("proc/self/cgroup", "9:name=systemd:/\n" + line.format("/job/step") + "\n")
    assert free_memory("cpu", tmp_path) == 8192
    limit("job/step", "max", "5000")
    assert free_memory("cpu", tmp_path) == 8192
    limit("job", "7000", "5000")
    folder = f"sys/fs/cgroup/{names[0].rpartition('/')[0]}"
    write(f"{folder}/job/memory.stat", f"anon 4300\n{inactive} {files}\n")
    assert free_memory("cpu", tmp_path) == 2000 + files
    limit(".", "6000", "5000")  # a container sees its own group as the root
    assert free_memory("cpu", tmp_path) == 1000
