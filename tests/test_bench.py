"""What the benchmark says of a machine and of a baseline; its speeds are not measured here."""

from sft.cpus import Usage
from tests.benchmarks.ceilings import AnsweringBound
from tests.benchmarks.check import problems
from tests.benchmarks.quiet import Reading, disturbances, verdict


def reading(at: float, idle: float, own: float, stolen: float = 0.0) -> Reading:
    return Reading(Usage(at, idle, own), stolen)


def test_a_machine_that_others_use_is_not_called_clean(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    before = reading(at=0, idle=0, own=0)
    assert disturbances(before, reading(at=100, idle=50, own=149)) == []
    assert "idle otherwise" in verdict([])

    busy = disturbances(before, reading(at=100, idle=0, own=150))
    assert busy == ["other processes used 0.5 CPUs"]
    stolen = disturbances(before, reading(at=100, idle=50, own=140, stolen=10))
    assert stolen == ["the hypervisor took 5% of each CPU"]
    for found in (busy, stolen, disturbances(None, None)):
        assert "Not a clean measurement" in verdict(found)


def test_memory_may_change_by_a_hundredth_and_speed_fall_by_fifteen():
    baseline = {"a, bytes": 1000.0, "a, tokens/s": 100.0}
    assert problems({"a, bytes": 1009, "a, tokens/s": 86}, baseline) == []
    assert problems({"a, bytes": 992, "a, tokens/s": 500}, baseline) == []
    for found in (
        {"a, bytes": 1011, "a, tokens/s": 100},
        {"a, bytes": 989, "a, tokens/s": 100},
        {"a, bytes": 1000, "a, tokens/s": 84},
    ):
        assert len(problems(found, baseline)) == 1


def test_the_slower_of_memory_and_products_bounds_answering():
    bound = AnsweringBound(reading=0.01, products={1: 0.002, 16: 0.02})
    assert bound.rate(1) == 100
    assert bound.rate(16) == 800
