"""Files of results: what a file may hold, and which of its lines count."""

import errno
import json
import os
from pathlib import Path

import pytest

from sft.errors import InputError
from sft.judge.keep import Choice, PairFile, Score, ScoreFile


def test_the_last_line_of_a_key_counts_and_labels_are_written_after_the_key(tmp_path: Path) -> None:
    file = ScoreFile(tmp_path / "scores.jsonl")
    file.add("k", Score("timeout", None, "no reply"), record=3, target="tuned")
    file.add("other", Score("scored", 0, ""), record=3, target="base")
    file.add("k", Score("scored", 85, "gut, größtenteils", "stop", 10, 5), record=3, target="tuned")
    assert ScoreFile(file.path).by_key == {
        "k": Score("scored", 85, "gut, größtenteils", "stop", 10, 5),
        "other": Score("scored", 0, ""),
    }
    assert [list(json.loads(line))[:6] for line in file.path.read_text().splitlines()] == [
        ["key", "record", "target", "status", "score", "reason"]
    ] * 3


@pytest.mark.parametrize(
    "values",
    [
        {"status": "scored", "score": None},
        {"status": "scored", "score": 101},
        {"status": "scored", "score": True},
        {"status": "scored", "score": "85"},
        {"status": "unparsed", "score": 85},
        {"status": "fine", "score": None},
        {"status": "scored"},
    ],
)
def test_a_line_that_is_not_a_judgement_is_named(values: dict[str, object], tmp_path: Path) -> None:
    more = {"reason": "", "done_reason": None, "prompt_tokens": None, "reply_tokens": None}
    (tmp_path / "scores.jsonl").write_text(json.dumps({"key": "k"} | values | more) + "\n")
    with pytest.raises(InputError, match=r"scores\.jsonl: line 1 "):
        ScoreFile(tmp_path / "scores.jsonl")


def test_a_full_disk_leaves_no_part_of_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = ScoreFile(tmp_path / "scores.jsonl")
    file.add("k", Score("scored", 85, ""), record=1)
    before = file.path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            InputError, match=r"scores\.jsonl: cannot be written \(No space left on device\)"
        ):
            file.add("other", Score("scored", 0, ""), record=2)
    assert file.path.read_bytes() == before
    file.add("third", Score("scored", 1, ""), record=3)
    assert list(ScoreFile(file.path).by_key) == list(file.by_key) == ["k", "third"]


def test_a_choice_is_kept_and_one_that_does_not_fit_its_status_is_refused(tmp_path: Path) -> None:
    file = PairFile(tmp_path / "pairs.jsonl")
    file.add("k", Choice("scored", "A", "longer"))
    assert PairFile(file.path).by_key == {"k": Choice("scored", "A", "longer")}
    for status, winner in (("scored", "tuned"), ("scored", None), ("error", "A"), ("", None)):
        with pytest.raises(ValueError, match=f"status {status}, value {winner}"):
            Choice(status, winner, "")
