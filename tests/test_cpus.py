"""A run takes the CPUs that others leave free, and its threads wait for a bounded time."""

import os
from pathlib import Path

import pytest
import torch

from sft import cpus, device
from sft.cpus import Usage, bound_waiting, free_threads


def usage(monkeypatch: pytest.MonkeyPatch, others: float) -> None:
    """Pretend that other processes used so many of two CPUs for ten seconds, and this one half."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(cpus, "START", Usage(at=100.0, idle=40.0, own=3.0))
    now = Usage(at=110.0, idle=40.0 + 20.0 - 10 * others - 5.0, own=8.0)
    monkeypatch.setattr(Usage, "now", lambda: now)


@pytest.mark.parametrize(
    ("others", "threads"), [(0.0, 2), (0.3, 2), (0.7, 1), (1.0, 1), (1.6, 1), (2.0, 1)]
)
def test_others_leave_a_run_fewer_threads(
    monkeypatch: pytest.MonkeyPatch, others: float, threads: int
) -> None:
    usage(monkeypatch, others)
    assert free_threads(2, processes=1) == (threads, pytest.approx(others))


def test_processes_of_one_run_share_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    usage(monkeypatch, others=1.0)
    assert [free_threads(8, processes)[0] for processes in (2, 3, 8, 16)] == [4, 2, 1, 1]


def test_a_system_without_counters_takes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "STAT", Path("/nowhere"))
    assert Usage.now() is None
    assert free_threads(4, processes=1) == (4, 0.0)


@pytest.mark.skipif(not cpus.STAT.exists(), reason="only Linux has the counters")
def test_the_counters_of_the_system_are_read() -> None:
    first, second = Usage.now(), Usage.now()
    assert first is not None
    assert second is not None
    assert 0 < first.idle <= second.idle
    assert 0 < first.own <= second.own


def test_threads_spin_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    bound_waiting()
    assert int(os.environ["GOMP_SPINCOUNT"]) in (cpus.SPINS, cpus.SPINS_WHEN_BUSY)
    assert os.environ["KMP_BLOCKTIME"] == "1"


def test_the_users_word_on_waiting_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    bound_waiting()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    monkeypatch.delenv("GOMP_SPINCOUNT")
    bound_waiting()
    assert "GOMP_SPINCOUNT" not in os.environ


def test_the_users_number_of_threads_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    usage(monkeypatch, others=2.0)
    monkeypatch.setattr(device, "THREADS", 2)
    before = torch.get_num_threads()
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        assert device.pick_threads("auto", "cpu", 1) == torch.get_num_threads() == 2
        monkeypatch.delenv("OMP_NUM_THREADS")
        assert device.pick_threads("auto", "cuda", 1) == 2
        assert device.pick_threads("auto", "cpu", 1) == torch.get_num_threads() == 1
        assert device.pick_threads(3, "cpu", 1) == torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
