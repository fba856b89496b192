"""What the doors without Hydra share."""

import gc
import sys

import pytest

from sft.command import heavy_imports


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Replace gc.freeze: each call notes whether the collector was on."""
    calls: list[bool] = []
    monkeypatch.setattr(gc, "freeze", lambda: calls.append(gc.isenabled()))
    return calls


@pytest.mark.parametrize("fails", [False, True])
def test_heavy_imports_pause_the_garbage_collector(
    monkeypatch: pytest.MonkeyPatch, frozen: list[bool], fails: bool
) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    try:
        with heavy_imports():
            assert not gc.isenabled()
            if fails:
                raise ImportError
    except ImportError:
        assert fails
    assert gc.isenabled()
    assert frozen == [False]


def test_objects_made_after_the_imports_are_not_frozen(
    monkeypatch: pytest.MonkeyPatch, frozen: list[bool]
) -> None:
    """A trainer of an earlier job would keep its memory for good."""
    monkeypatch.setitem(sys.modules, "torch", sys)
    with heavy_imports():
        assert gc.isenabled()
    assert frozen == []
