"""The voting page over plain HTTP."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from sft.voting.ballots import Arena, load_arena
from sft.voting.outcome import outcome
from sft.voting.votes import VoteFile
from tests.evaluation.reading import Seen
from tests.fixtures.doors import call
from tests.voting.made_up import evaluated, polling


@contextmanager
def voting(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the command; yield its process and its URL."""
    command = [sys.executable, "-m", "sft.arena", *arguments, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            printed = ""
            while not (found := re.search(r"vote at (http://\S+)", printed)):
                line = process.stdout.readline()
                assert line, printed
                printed += line
            yield process, found[1]
        finally:
            process.kill()


HOSTILE = "<img src=x onerror=alert(1)></script>"


@pytest.fixture
def arena(tmp_path: Path) -> Arena:
    names = ("left out", HOSTILE.replace("/", ""))
    texts = [[f"{word} {number}" for number in range(8)] for word in ("right", "wrong")]
    return load_arena(
        [evaluated(tmp_path / name, text) for name, text in zip(names, texts, strict=True)]
    )


@pytest.fixture
def url(arena: Arena, tmp_path: Path) -> Iterator[str]:
    with polling(arena, tmp_path / "votes.jsonl") as found:
        yield found


def ballot(url: str, voter: str = "ann", **more: str) -> Any:
    found = requests.get(f"{url}/ballot", params={"voter": voter} | more, timeout=10)
    assert found.status_code == 200, found.text
    return found.json()


def vote(url: str, key: str, choice: str, voter: str = "ann") -> requests.Response:
    body = {"voter": voter, "ballot": key, "choice": choice}
    return requests.post(f"{url}/vote", json=body, timeout=10)


def test_a_ballot_names_no_model(arena: Arena, url: str) -> None:
    found = ballot(url)
    assert (found["done"], found["total"]) == (0, 8)
    text = json.dumps(found)
    for candidate in arena.candidates:
        assert Path(candidate.name).name not in text
        assert candidate.weights not in text


def test_votes_for_the_right_answers_count_for_their_model(
    arena: Arena, url: str, tmp_path: Path
) -> None:
    for number in range(8):
        shown = ballot(url)["ballot"]
        side = "left" if shown["left"].startswith("right") else "right"
        found = vote(url, shown["key"], side).json()
        assert found["done"] == number + 1
    assert found["ballot"] is None

    [pair] = outcome(arena, VoteFile(tmp_path / "votes.jsonl").by_key.values()).pairs
    assert (pair.wins, pair.ties, pair.losses, pair.rate) == (8, 0, 0, 1.0)
    assert "left out" in pair.first


def test_a_vote_is_on_disk_when_it_is_answered_and_a_later_one_replaces_it(
    url: str, tmp_path: Path
) -> None:
    key = ballot(url)["ballot"]["key"]
    for choice, kept in (("tie", "tie"), ("bad", "bad")):
        assert vote(url, key, choice).status_code == 200
        [found] = VoteFile(tmp_path / "votes.jsonl").by_key.values()
        assert (found.voter, found.ballot, found.choice) == ("ann", key, kept)
    assert ballot(url, ballot=key)["ballot"]["choice"] == "bad"
    assert ballot(url)["done"] == 1
    assert ballot(url, "ben")["done"] == 0


def test_wrong_requests_are_refused_by_the_field(url: str, tmp_path: Path) -> None:
    key = ballot(url)["ballot"]["key"]
    wrong = [
        (vote(url, key, "up"), 400, "choice"),
        (vote(url, "no key", "tie"), 404, "ballot"),
        (vote(url, key, "tie", voter=" "), 400, "voter"),
        (vote(url, key, "tie", voter="x" * 41), 400, "voter"),
        (vote(url, key, "tie", voter="a\x1b[2J"), 400, "voter"),
        (requests.get(f"{url}/ballot", timeout=10), 400, "voter"),
    ]
    for response, status, field in wrong:
        assert response.status_code == status
        assert response.json()["error"]["param"] == field
    assert not (tmp_path / "votes.jsonl").exists()


@pytest.mark.parametrize("header", [{"host": "evil.example"}, {"origin": "http://evil.example"}])
def test_pages_of_other_sites_neither_read_nor_vote(
    url: str, tmp_path: Path, header: dict[str, str]
) -> None:
    key = ballot(url)["ballot"]["key"]
    for method, path in (("GET", f"/ballot?voter=ann&ballot={key}"), ("GET", "/outcome")):
        assert requests.request(method, url + path, headers=header, timeout=10).status_code == 403
    body = {"voter": "ann", "ballot": key, "choice": "tie"}
    response = requests.post(f"{url}/vote", json=body, headers=header, timeout=10)
    assert response.status_code == 403
    assert not (tmp_path / "votes.jsonl").exists()


def test_the_outcome_shows_hostile_names_as_text(url: str) -> None:
    key = ballot(url)["ballot"]["key"]
    vote(url, key, "tie", voter=HOSTILE)
    page = Seen(requests.get(f"{url}/outcome", timeout=10).text)
    assert "img" not in page.tags
    assert HOSTILE in page.text
    assert "1 vote (" in page.text


def test_the_page_runs_its_own_files_alone(url: str) -> None:
    response = requests.get(url, timeout=10)
    assert "default-src 'none'; script-src 'self'" in response.headers["content-security-policy"]
    for path in re.findall(r'(?:href|src)="(/[^"]*\.(?:css|js))"', response.text):
        assert requests.get(url + path, timeout=10).status_code == 200


def test_a_vote_outlives_kill_9_and_is_shown_by_the_next_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [evaluated(tmp_path / name, [f"{name} {n}" for n in range(3)]) for name in "ab"]
    with voting(*runs) as (process, url):
        shown = ballot(url)["ballot"]
        vote(url, shown["key"], "left" if shown["left"].startswith("b") else "right")
        process.kill()

    call("sft/arena.py", *runs, "--show", folder=tmp_path)
    text = capsys.readouterr().out
    assert "1 vote (ann 1) on 1 of 3 pairs of answers" in text
    assert "0/0/1" in text
    page = Seen((tmp_path / "a" / "arena" / "report.html").read_text())
    assert "0, 0, 1" in page.text
