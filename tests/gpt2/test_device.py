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


def test_auto_precision_is_bf16_where_the_device_multiplies_it(monkeypatch):
    monkeypatch.setattr(device, "multiplies_bf16", lambda name: name == "cuda")
    assert pick_precision("auto", "cuda") == "bf16-mixed"
    assert pick_precision("auto", "cpu") == "32-true"
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
