"""The device that a run uses, and the precision in which it multiplies."""

import ctypes
import logging
import os
import platform
import shutil
from pathlib import Path
from typing import Literal, get_args

import torch

from sft.config.rules import unfit_precision
from sft.config.schema import Device
from sft.cpus import free_threads
from sft.errors import InputError

log = logging.getLogger("sft")

CPUINFO = Path("/proc/cpuinfo")

# The threads that torch takes by itself: a CPU each, unless the environment says otherwise.
THREADS = torch.get_num_threads()

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
# Models that only answer may also have weights of 8 bits.
AnswerPrecision = Literal[Precision, "int8"]


def pick_device(name: str, count: int = 1) -> str:
    """Return `cpu`, `cuda` or `mps`; `auto` is the fastest one of this machine.

    Args:
        count: processes on this machine. Each needs a device of its own, but a CPU can be shared.

    Raises:
        InputError: the machine lacks the device, or has fewer than `count`.
    """
    device = _pick(name)
    available = {"cuda": torch.cuda.device_count(), "mps": 1, "cpu": count}[device]
    if count > available:
        raise InputError(
            f"devices: {count}, but this machine has {available} of device={device}; lower it"
        )
    return device


def _pick(name: str) -> str:
    if name not in get_args(Device):
        nvidia = str(name).lower() in ("gpu", "nvidia", "amd", "rocm")
        hint = "; a GPU of NVIDIA or AMD is cuda" if nvidia else ""
        raise InputError(
            f"device: unknown value {name!r}; expected one of {', '.join(get_args(Device))}{hint}"
        )
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available.insert(0, "cuda")

    if name == "auto":
        return available[0]
    if name not in available:
        raise InputError(
            f"device: {name} is not available; torch {torch.__version__} finds only "
            f"{', '.join(available)} here"
        )
    return name


def pick_precision(name: str, device: str) -> Precision:
    """Return Lightning's name of a precision to train in; `auto` is the faster of bf16 and fp32."""
    if name == "auto":
        return "bf16-mixed" if trains_faster_in_bf16(device) else "32-true"
    if problem := unfit_precision(device, name):
        raise InputError(problem)
    return "32-true" if name == "32" else name  # type: ignore[return-value]


def pick_answer_precision(name: str, device: str) -> AnswerPrecision:
    """Return the precision of a model that only answers; `auto` is bf16 where there is hardware.

    Answering mostly waits for memory, and bf16 takes half of fp32's.
    """
    if name == "auto":
        return "bf16-mixed" if multiplies_bf16(device) else "32-true"
    if name != "int8":
        return pick_precision(name, device)
    if problem := unfit_precision(device, name):
        raise InputError(problem)
    return "int8"


def trains_faster_in_bf16(device: str) -> bool:
    """Return whether the hardware multiplies bf16 matrices faster than those of fp32.

    Intel's processors without AMX do not: AVX512-BF16 reaches half the rate of fp32 there, and a
    training step of GPT-2 124M took 1.6 times as long. Other makers' CPUs were not measured. They
    are taken to be faster in bf16 where they multiply it at all.
    """
    if device == "cpu" and _is_intel():
        return torch.cpu._is_amx_tile_supported()
    return multiplies_bf16(device)


def _is_intel() -> bool:
    if CPUINFO.exists():
        return "GenuineIntel" in CPUINFO.read_text(encoding="utf-8", errors="replace")
    return "GenuineIntel" in platform.processor()


def multiplies_bf16(device: str) -> bool:
    """Return whether the hardware multiplies bf16 matrices.

    NVIDIA's does from Ampere on, and CPUs do with AVX512-BF16 or AMX.
    """
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    if device == "cpu":
        avx = torch.cpu._is_avx512_bf16_supported()
        amx = torch.cpu._is_amx_tile_supported()
        return bool(avx or amx)
    return False


# The project's names of floating-point types, and the types in which matrices are multiplied, by
# the precision. Lightning gave these names, but for `int8`: the type of what it multiplies.
FLOAT_TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
DTYPES = {
    "32-true": FLOAT_TYPES["f32"],
    "bf16-mixed": FLOAT_TYPES["bf16"],
    "16-mixed": FLOAT_TYPES["f16"],
    "int8": FLOAT_TYPES["bf16"],
}


def check_compiler(device: str) -> None:
    """Raise InputError if `torch.compile` needs a C++ compiler that is missing."""
    compiler = os.environ.get("CXX") or "g++"
    if device == "cpu" and not shutil.which(compiler):
        raise InputError(
            f"compile: needs a C++ compiler on the CPU, but there is no {compiler}; install it or "
            "set CXX"
        )


def pick_threads(wanted: int | Literal["auto"], device: str, processes: int) -> int:
    """Set the number of threads of this process, and return it.

    Args:
        wanted: `auto` takes the CPUs that are free, unless OMP_NUM_THREADS is set or the work is
            done on a GPU.
        processes: of this run on this machine.
    """
    threads = wanted
    if threads == "auto":
        threads = THREADS
        if device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
            threads, others = free_threads(THREADS, processes)
            if others and threads < THREADS:
                log.warning(
                    f"threads: {threads} of {THREADS}, as other processes use {others:.1f} CPUs; "
                    f"threads={THREADS} takes all"
                )

    # Setting the number that torch has already could still change how its libraries share work.
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    return threads


def keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of returning it to the system.

    A training step on the CPU frees and allocates the same large tensors again and again. Keeping
    them made the same step 1.25 to 1.5 times as fast on a virtual machine with two cores.
    M_TRIM_THRESHOLD and M_MMAP_THRESHOLD are described in mallopt(3). Other C libraries are left as
    they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL("libc.so.6")
    m_trim_threshold = -1
    m_mmap_threshold = -3
    libc.mallopt(m_mmap_threshold, 1 << 30)
    libc.mallopt(m_trim_threshold, (1 << 31) - 1)
