"""A soak that fails says so, and keeps its log."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

from tests.soak import __main__ as soak


def test_a_failure_is_reported_and_its_log_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def torment(*_: object) -> int:
        os.write(2, b"what a rank says")
        raise AssertionError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["soak", "--seed", "7"])
    monkeypatch.setattr(soak, "tiny_config", lambda place: None)
    monkeypatch.setattr(soak, "finish", lambda *_: None)
    monkeypatch.setattr(soak, "torment", torment)
    with pytest.raises(AssertionError):
        soak.main()
    os.write(2, b"a traceback")
    [place] = tmp_path.iterdir()
    printed, errors = capfd.readouterr()
    started, failed = printed.splitlines()
    assert "seed 7" in started
    assert str(place) in started
    assert "seed 7" in failed
    assert f"{place}/log" in failed
    assert f"{place}/run0" in failed
    assert errors == "a traceback"
    assert (place / "log").read_text() == "what a rank says"
