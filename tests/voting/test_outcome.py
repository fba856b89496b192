from pathlib import Path

import pytest

from sft.voting.app import write_outcome
from sft.voting.ballots import Arena, load_arena
from sft.voting.outcome import outcome, outcome_text
from sft.voting.votes import Vote
from tests.evaluation.reading import Seen
from tests.voting.made_up import evaluated

JUDGE = {"kind": "ollama", "model": "m", "digest": "d", "mode": "pairwise"}


def texts(name: str, count: int = 12) -> list[str]:
    return [f"{name} {number}" for number in range(count)]


def votes(arena: Arena, voter: str, strength: dict[str, int], tie: int = 0) -> list[Vote]:
    """Vote on every ballot for the stronger model, and for every `tie`-th record a tie."""
    found = []
    for ballot in arena.ballots:
        names = [Path(arena.candidates[place].name).name for place in (ballot.first, ballot.second)]
        better = "first" if strength[names[0]] > strength[names[1]] else "second"
        choice = "tie" if tie and ballot.record.record % tie == 0 else better
        found.append(Vote(voter, ballot.key, choice, "first", ""))
    return found


@pytest.fixture
def three(tmp_path: Path) -> Arena:
    # The hashes of the weights decide which model is a ballot's first. Here it is never a.
    runs = [
        evaluated(tmp_path / name, texts(name), sha=sha)
        for name, sha in zip("abc", "312", strict=True)
    ]
    return load_arena(runs)


def test_three_models_are_rated_and_the_one_that_never_won_comes_last(three: Arena) -> None:
    found = outcome(three, votes(three, "ann", {"a": 3, "b": 2, "c": 1}))
    assert found.ratings
    points = [one.points for one in found.ratings]
    assert points == sorted(points, reverse=True)
    assert sum(points) == pytest.approx(0, abs=1e-6)
    assert [one.rank for one in found.ratings] == [1, 2, 3]
    assert [(one.wins, one.losses) for one in found.pairs] == [(12, 0)] * 3
    assert "is better than" in found.pairs[0].verdict


def test_models_that_no_vote_connects_have_no_strengths(three: Arena) -> None:
    own = []
    for vote in votes(three, "ann", {"a": 3, "b": 2, "c": 1}):
        ballot = three.by_key[vote.ballot]
        if {ballot.first, ballot.second} == {0, 1}:
            own.append(vote)
    found = outcome(three, own)
    assert found.ratings is None
    assert "leave some models unconnected" in outcome_text(found)


def test_a_record_with_many_voters_counts_as_one(three: Arena) -> None:
    strength = {"a": 3, "b": 2, "c": 1}
    one = outcome(three, votes(three, "ann", strength, tie=3))
    many = outcome(
        three, [v for who in ("ann", "ben", "cem") for v in votes(three, who, strength, tie=3)]
    )
    for single, several in zip(one.pairs, many.pairs, strict=True):
        assert several.rate == single.rate
        assert several.interval == single.interval
        assert several.wins == 3 * single.wins


def test_voters_and_the_judge_agree_beyond_chance(tmp_path: Path) -> None:
    wins = ["tuned" if number % 2 else "base" for number in range(12)]
    run = evaluated(tmp_path / "a", texts("a"), texts("base"), preferred=wins, judge=JUDGE)
    arena = load_arena([run])
    ann = []
    for ballot in arena.ballots:
        tuned = "first" if arena.candidates[ballot.first].model == "tuned" else "second"
        base = {"first": "second", "second": "first"}[tuned]
        choice = base if ballot.record.record % 2 else tuned
        ann.append(Vote("ann", ballot.key, choice, "first", ""))
    ben = [Vote("ben", vote.ballot, "bad", "first", "") for vote in ann]
    found = {one.names: one.agreement for one in outcome(arena, ann).agreements}
    assert found["voters and judge"].kappa == pytest.approx(1)
    assert found["voters and judge"].items == 12

    both = {one.names: one.agreement for one in outcome(arena, ann + ben).agreements}
    assert both["ann and ben"].share == 0
    assert both["voters and judge"].share == pytest.approx(0.5)


def test_votes_on_answers_of_another_day_are_counted_apart(three: Arena) -> None:
    old = Vote("ann", "a ballot that is gone", "tie", "first", "")
    found = outcome(three, [old, *votes(three, "ann", {"a": 3, "b": 2, "c": 1})])
    assert (found.votes, found.others) == (36, 1)
    assert "not counted: 1 vote" in outcome_text(found)
    assert outcome_text(outcome(three, [])) == "no vote yet"


def test_the_page_and_the_terminal_show_the_same_numbers(three: Arena, tmp_path: Path) -> None:
    strength = {"a": 3, "b": 2, "c": 1}
    found = outcome(three, votes(three, "ann", strength, tie=4) + votes(three, "<b>", strength))
    page = Seen(write_outcome(tmp_path / "out", found).read_text())
    text = outcome_text(found)
    assert f"{found.pairs[0].rate:.3f}" in text
    assert f"{found.pairs[0].rate:.3f}" in page.text
    assert found.ratings
    assert f"{found.ratings[0].points:.0f}" in text
    assert f"+{found.ratings[0].points:.0f}" in page.text
    assert "<b> and ann" in page.text
    assert "b" not in page.tags
