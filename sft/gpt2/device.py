"""Where tensors live and in which precision they are multiplied."""

import ctypes
import os
import platform
import shutil
from typing import Literal

import torch

from sft.config import InputError
from sft.config.rules import half_on_cpu

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}  # of matrix products


def pick_device(name: str, count: int = 1) -> str:
    """`cpu`, `cuda` or `mps`; `auto` is the fastest that is there.

    Args:
        count: processes on this machine, each of which needs a device of its own; a CPU can be shared.

    Raises:
        InputError: the device asked for is absent, or there are fewer than `count`.
    """
    device = _pick(name)
    there = {"cuda": torch.cuda.device_count(), "mps": 1, "cpu": count}[device]
    if count > there:
        raise InputError(f"devices: {count}, but this machine has {there} of device={device}; lower it")
    return device


def _pick(name: str) -> str:
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device, there in present.items() if there)
    if not present[name]:
        there = ", ".join(device for device, there in present.items() if there)
        raise InputError(f"device: {name} was asked for, but torch {torch.__version__} finds only {there} here")
    return name


def pick_precision(name: str, device: str) -> Precision:
    """Lightning's name of a precision; `auto` is bf16 where the device multiplies it fast, else fp32."""
    if name == "auto":
        return "bf16-mixed" if multiplies_bf16(device) else "32-true"
    if problem := half_on_cpu(device, name):
        raise InputError(problem)
    return "32-true" if name == "32" else name  # type: ignore[return-value]


def multiplies_bf16(device: str) -> bool:
    """Whether bf16 matrix products run in hardware: NVIDIA from Ampere on, CPUs with AVX512-BF16 or AMX."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    if device == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def row_multiple(device: str) -> int:
    """Rows are padded to a multiple of so many tokens: a new length costs preparation on a CPU, and memory on MPS."""
    return 64 if device == "mps" else 16


def check_compiler(device: str) -> None:
    """Raises InputError if `torch.compile` would need a C++ compiler that is not there."""
    compiler = os.environ.get("CXX") or "g++"
    if device == "cpu" and not shutil.which(compiler):
        raise InputError(f"compile: needs a C++ compiler on the CPU, but there is no {compiler}; install it or set CXX")


def keep_freed_memory() -> None:
    """Have glibc keep what is freed instead of handing it back and mapping it anew at every step.

    A training step on the CPU frees and allocates the same large tensors again and again. M_TRIM_THRESHOLD and
    M_MMAP_THRESHOLD are described in mallopt(3). Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL("libc.so.6")
        m_trim_threshold, m_mmap_threshold = -1, -3
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)
