import json
from pathlib import Path

import pytest

from sft.errors import InputError
from sft.voting.ballots import judged, load_arena, short_names
from sft.voting.votes import VoteFile, left
from tests.voting.made_up import evaluated

RIGHT = [f"right {number}" for number in range(1, 13)]
WRONG = [f"wrong {number}" for number in range(1, 13)]
PAIRWISE = {"kind": "ollama", "model": "m", "digest": "d", "mode": "pairwise"}


def test_one_run_is_paired_with_its_base(tmp_path: Path) -> None:
    arena = load_arena([evaluated(tmp_path / "a", RIGHT, WRONG)])
    assert [one.name for one in arena.candidates] == ["base", str(tmp_path / "a")]
    assert len(arena.ballots) == 12
    for ballot in arena.ballots:
        shown = {ballot.first: ballot.first_text, ballot.second: ballot.second_text}
        assert shown[0] == f"wrong {ballot.record.record}"
        assert shown[1] == f"right {ballot.record.record}"


def test_each_record_comes_once_before_any_comes_again_and_each_pair_comes_early(
    tmp_path: Path,
) -> None:
    texts = {"a": RIGHT, "b": WRONG, "c": [f"third {text}" for text in RIGHT]}
    arena = load_arena([evaluated(tmp_path / name, text) for name, text in texts.items()])
    assert len(arena.ballots) == 36
    early = arena.ballots[:12]
    assert sorted(ballot.record.record for ballot in early) == list(range(1, 13))
    assert [ballot.record.record for ballot in early] != list(range(1, 13))
    pairs = [frozenset((ballot.first, ballot.second)) for ballot in early]
    assert {pairs.count(pair) for pair in set(pairs)} == {4}


def test_names_leave_out_what_all_runs_share() -> None:
    assert short_names(["out/a/one", "out/a/two"]) == ["one", "two"]
    assert short_names(["out/a/one", "out/b/one"]) == ["a/one", "b/one"]
    assert short_names(["out", "out/b"]) == ["out", "out/b"]
    assert short_names(["out/one"]) == ["out/one"]


def test_equal_answers_and_records_that_were_not_asked_are_not_shown(tmp_path: Path) -> None:
    one = evaluated(tmp_path / "a", [None, "same", "right"])
    arena = load_arena([one, evaluated(tmp_path / "b", ["x", "same", "wrong"])])
    assert [ballot.record.record for ballot in arena.ballots] == [3]
    assert arena.alike == 1


def test_a_vote_is_found_again_whatever_the_order_of_the_runs(tmp_path: Path) -> None:
    one, other = (evaluated(tmp_path / name, text) for name, text in (("a", RIGHT), ("b", WRONG)))
    arena, reverse = load_arena([one, other]), load_arena([other, one])
    assert {ballot.key for ballot in arena.ballots} == {ballot.key for ballot in reverse.ballots}
    for ballot in arena.ballots:
        again = reverse.by_key[ballot.key]
        assert ballot.first_text == again.first_text
        assert arena.candidates[ballot.first].name == reverse.candidates[again.first].name


def test_each_model_is_on_the_left_about_as_often_and_voters_see_other_sides(
    tmp_path: Path,
) -> None:
    texts = [[f"{name} {number}" for number in range(400)] for name in "ab"]
    runs = [evaluated(tmp_path / name, text) for name, text in zip("ab", texts, strict=True)]
    ballots = load_arena(runs).ballots
    sides = [[left(voter, ballot) for ballot in ballots] for voter in ("ann", "ben")]
    for of_voter in sides:
        assert 160 < of_voter.count("first") < 240
    same = sum(one == other for one, other in zip(*sides, strict=True))
    assert 160 < same < 240


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (["a", "a"], "given twice"),
        (["a", "longer"], "limit is None and 13"),
        (["a", "validation"], "on its test split and .* on its validation split"),
        (["alone"], "without its base"),
        (["a", "same"], "all answers of .* are the same"),
        (["a", "nowhere"], "has not been evaluated"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused_in_one_line(
    tmp_path: Path, runs: list[str], message: str
) -> None:
    evaluated(tmp_path / "a", RIGHT, WRONG)
    evaluated(tmp_path / "same", RIGHT)
    evaluated(tmp_path / "alone", RIGHT)
    evaluated(tmp_path / "longer", [*RIGHT, "more"], config={"limit": 13})
    evaluated(tmp_path / "validation", RIGHT, split="validation")
    with pytest.raises(InputError, match=f"^RUN: .*{message}") as error:
        load_arena([str(tmp_path / name) for name in runs])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("earlier", [False, True])
def test_the_judge_prefers_by_its_pairs_or_by_its_scores(tmp_path: Path, earlier: bool) -> None:
    wins = ["tuned", "base", "tie", None]
    run = evaluated(tmp_path / "a", RIGHT[:4], WRONG[:4], preferred=wins, judge=PAIRWISE)
    if earlier:
        # The winner stood at the start of the reason.
        path = tmp_path / "a" / "evaluation" / "records.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            winner = row.pop("preferred")
            row["tuned"]["reason"] = winner and f"{winner}: shorter"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    other = evaluated(tmp_path / "b", WRONG[:4], judge=PAIRWISE)
    arena = load_arena([run])
    preferred = {}
    for ballot in arena.ballots:
        found = judged(arena, ballot)
        places = {"first": ballot.first, "second": ballot.second}
        name = arena.candidates[places[found]].model if found in places else found
        preferred[ballot.record.record] = name
    assert preferred == {1: "tuned", 2: "base", 3: "tie", 4: None}

    # Two runs were never judged as a pair.
    arena = load_arena([run, other])
    assert {judged(arena, ballot) for ballot in arena.ballots} == {None}


def test_scores_of_two_judges_are_not_compared(tmp_path: Path) -> None:
    judge = PAIRWISE | {"mode": "score"}
    runs = [
        evaluated(tmp_path / "a", RIGHT[:3], scores=[90, 50, 20], judge=judge),
        evaluated(tmp_path / "b", WRONG[:3], scores=[10, 50, None], judge=judge),
        evaluated(tmp_path / "c", WRONG[:3], scores=[10, 50, 30], judge=judge | {"model": "n"}),
    ]
    arena = load_arena(runs[:2])
    found = {ballot.record.record: (ballot, judged(arena, ballot)) for ballot in arena.ballots}
    ballot, preferred = found[1]
    assert preferred == ("first" if ballot.first_text.startswith("right") else "second")
    assert [found[record][1] for record in (2, 3)] == ["tie", None]
    arena = load_arena([runs[0], runs[2]])
    assert {judged(arena, ballot) for ballot in arena.ballots} == {None}


def test_a_vote_of_no_known_choice_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_text(
        '{"key": "k", "voter": "a", "ballot": "b", "choice": "up", "left": "first", "at": ""}\n'
    )
    with pytest.raises(InputError, match="line 1 is not a valid vote"):
        VoteFile(path)
