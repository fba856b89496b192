"""A soak that fails says so."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

from tests.soak import __main__ as soak


def test_a_failure_is_told_and_leaves_its_log(
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
    told = f"seed 7, 30 minutes, in {place}\nfailed in round 0, seed 7; see {place}/log and {place}/run0\n"
    assert capfd.readouterr() == (told, "a traceback")
    assert (place / "log").read_text() == "what a rank says"
