"""The choice of the device and of the precision."""

import pytest
import torch

from sft import device
from sft.device import check_compiler, pick_answer_precision, pick_device, pick_precision
from sft.errors import InputError


@pytest.fixture
def machine(monkeypatch):
    """Pretend to have so many CUDA devices, and MPS or not."""

    def pretend(cuda: int, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(
    ("cuda", "mps", "fastest"),
    [(0, False, "cpu"), (0, True, "mps"), (1, False, "cuda"), (1, True, "cuda")],
)
def test_auto_is_the_fastest_device_that_the_machine_has(machine, cuda, mps, fastest):
    machine(cuda, mps)
    assert pick_device("auto") == fastest
    assert pick_device(fastest) == fastest


def test_a_device_that_is_absent_is_refused_with_those_present(machine):
    machine(cuda=0, mps=True)
    with pytest.raises(InputError, match=r"^device: cuda .*only mps, cpu"):
        pick_device("cuda")


def test_more_processes_than_gpus_are_refused_but_share_a_cpu(machine):
    machine(cuda=2)
    assert pick_device("cuda", count=2) == "cuda"
    with pytest.raises(InputError, match=r"^devices: 3, .*2 of device=cuda"):
        pick_device("auto", count=3)
    assert pick_device("cpu", count=3) == "cpu"


@pytest.fixture
def processor(monkeypatch, tmp_path):
    """Pretend to have a CPU of a vendor, with AMX or not. All of them have AVX512-BF16."""

    def pretend(vendor: str, amx: bool) -> None:
        info = tmp_path / "cpuinfo"
        info.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
        monkeypatch.setattr(device, "CPUINFO", info)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)

    return pretend


@pytest.mark.parametrize(
    ("vendor", "amx", "training"),
    [
        ("GenuineIntel", True, "bf16-mixed"),
        ("GenuineIntel", False, "32-true"),
        ("AuthenticAMD", False, "bf16-mixed"),
    ],
)
def test_auto_trains_in_the_faster_precision_and_answers_in_bf16(processor, vendor, amx, training):
    processor(vendor, amx)
    assert pick_precision("auto", "cpu") == training
    assert pick_answer_precision("auto", "cpu") == "bf16-mixed"


def test_auto_precision_is_fp32_where_the_device_does_not_multiply_bf16(monkeypatch):
    monkeypatch.setattr(device, "multiplies_bf16", lambda name: name == "cuda")
    assert pick_precision("auto", "cuda") == "bf16-mixed"
    assert pick_precision("auto", "mps") == "32-true"
    assert pick_answer_precision("auto", "mps") == "32-true"


def test_a_precision_that_is_named_is_taken():
    assert pick_precision("32", "cuda") == "32-true"
    assert pick_precision("bf16-mixed", "cpu") == "bf16-mixed"


def test_fp16_on_the_cpu_is_refused():
    assert pick_precision("16-mixed", "cuda") == "16-mixed"
    with pytest.raises(InputError, match=r"^precision: 16-mixed"):
        pick_precision("16-mixed", "cpu")


def test_int8_is_for_models_that_answer_on_the_cpu():
    assert pick_answer_precision("int8", "cpu") == "int8"
    assert pick_answer_precision("32", "cpu") == "32-true"
    with pytest.raises(InputError, match=r"^precision: int8 needs device=cpu"):
        pick_answer_precision("int8", "cuda")


def test_compiling_on_a_cpu_without_a_compiler_is_refused_by_its_name(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match=r"^compile: .*no-such-compiler"):
        check_compiler("cpu")
    check_compiler("cuda")
