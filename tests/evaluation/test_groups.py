"""Runs that differ in the seed alone are one group, and groups are compared."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from sft.errors import InputError
from sft.evaluation.compare import evaluated_runs
from sft.evaluation.groups import (
    Group,
    clusters_of,
    compare_groups,
    grouped,
    groups_text,
    keep,
    read_member,
)
from sft.evaluation.run import compare_runs
from sft.scoring.groups import AnswerCount
from sft.scoring.results import read_records
from sft.summaries import write_run_summary
from tests.evaluation.reading import Seen
from tests.evaluation.test_compare import write
from tests.summaries import CONTENT, run_summary


def job(folder: Path, lr: float, seed: int, exact: list[float], **settings: Any) -> str:
    """Write a run that has been evaluated: `exact` are its exact matches."""
    write(folder, exact, **settings)
    path = folder / "evaluation" / "records.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        # Questions that resemble each other would be one cluster.
        row["instruction"] = hashlib.sha256(str(row["record"]).encode()).hexdigest()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = CONTENT["config"] | {"optim": {"lr": lr}, "seed": seed}
    loss = 1.5 - sum(exact) / len(exact)
    write_run_summary(folder, run_summary(config=config, seed=seed, best_validation_loss=loss))
    (folder / "model").mkdir()
    lines = [f"{step},{step / 10},{loss + 1 / (step + 1)}" for step in range(0, 20, 5)]
    (folder / "metrics.csv").write_text("\n".join(["step,epoch,val/loss", *lines]) + "\n")
    return str(folder)


def sweep(folder: Path, seeds: tuple[int, ...] = (1, 2, 3), better: int = 20) -> Path:
    """Write two recipes on 40 records: with lr 1e-4, `better` more of them are right."""
    number = 0
    for lr, right in ((1e-4, 10 + better), (1e-3, 10)):
        for seed in seeds:
            exact = [float(place < right + seed % 2) for place in range(40)]
            job(folder / str(number), lr, seed, exact)
            number += 1
    return folder


def groups_of(folder: Path) -> list[Group]:
    return grouped([read_member(Path(name), True) for name in evaluated_runs([str(folder)])])


def test_jobs_that_differ_in_the_seed_alone_are_one_group(tmp_path: Path) -> None:
    groups = groups_of(sweep(tmp_path))
    assert [group.label for group in groups] == ["optim.lr=0.0001", "optim.lr=0.001"]
    assert [group.seeds for group in groups] == [[1, 2, 3], [1, 2, 3]]
    assert [Path(member.name).name for member in groups[1].members] == ["3", "4", "5"]


def test_a_checkpoint_among_the_runs_leaves_their_labels_short(tmp_path: Path) -> None:
    sweep(tmp_path / "sweep")
    theirs = write(tmp_path / "sweep" / "theirs", [1.0] * 40)
    labels = [group.label for group in groups_of(tmp_path / "sweep")]
    assert sorted(labels) == sorted([theirs, "optim.lr=0.0001", "optim.lr=0.001"])


def test_the_better_group_is_named_with_what_that_rests_on(tmp_path: Path) -> None:
    found = compare_groups(groups_of(sweep(tmp_path)), "exact_match")
    first, second = found.groups
    assert (first.rank, second.rank) == (1, 2)
    assert first.means["exact_match"].mean == pytest.approx((31 + 30 + 31) / 120)
    assert first.means["exact_match"].by_seed == pytest.approx([31 / 40, 30 / 40, 31 / 40])
    low, high = first.means["exact_match"].interval or (0, 0)
    assert low < 31 / 40 < high
    [pair] = found.differences["exact_match"]
    assert pair.difference == pytest.approx(0.5)
    assert pair.differ
    assert found.ranked_by == "exact_match"
    text = groups_text(found)
    assert "exact match: optim.lr=0.0001 is better than optim.lr=0.001 by 0.5 " in text
    assert "3 seeds and 40 records of the test split" in text
    assert "four times in five" in text


def test_groups_that_cannot_be_told_apart_share_a_rank(tmp_path: Path) -> None:
    found = compare_groups(groups_of(sweep(tmp_path, better=1)), "exact_match")
    assert [group.rank for group in found.groups] == [1, 1]
    assert "exact match: no difference beyond noise; the largest is 0.025" in groups_text(found)


def test_where_lower_is_better_the_lower_loss_has_rank_1(tmp_path: Path) -> None:
    found = compare_groups(groups_of(sweep(tmp_path)), "loss")
    assert found.ranked_by == "loss"
    assert [group.rank for group in found.groups] == [1, 2]
    assert found.order == [0, 1]


def test_without_an_evaluation_the_validation_loss_is_compared_over_seeds_alone(
    tmp_path: Path,
) -> None:
    folder = sweep(tmp_path)
    groups = grouped([read_member(folder / str(number), False) for number in range(6)])
    found = compare_groups(groups, "validation_loss")
    assert list(found.differences) == ["validation_loss"]
    assert (found.records, found.disputed) == (0, [])
    assert [group.rank for group in found.groups] == [1, 2]
    assert "over seeds alone" in groups_text(found)


def test_the_share_of_records_answered_alike_and_those_on_which_seeds_disagree(
    tmp_path: Path,
) -> None:
    """Seeds 1 and 3 are right on one record more. The answers' texts are the same otherwise."""
    folder = sweep(tmp_path)
    for number in range(6):
        path = folder / str(number) / "evaluation" / "records.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            row["tuned"]["text"] = "Right." if row["tuned"]["exact_match"] else "wrong"
        rows[0]["tuned"]["text"] = "right"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = compare_groups(groups_of(folder), "exact_match")
    assert [group.alike for group in found.groups] == [39 / 40, 39 / 40]
    assert [row.record for row in found.disputed] == [11, 31]
    assert found.disputed[0].answers == [
        [AnswerCount("Right.", seeds=3)],
        [AnswerCount("Right.", seeds=2), AnswerCount("wrong", seeds=1)],
    ]


def test_groups_with_other_records_are_refused_by_the_key(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    config = json.loads((folder / "5" / "evaluation" / "summary.json").read_text())["config"]
    job(tmp_path / "6", 1e-2, 1, [1.0] * 30, config=config | {"limit": 30})
    with pytest.raises(InputError, match=r"compare: .*0 and .*6 .*limit is None and 30"):
        compare_groups(groups_of(folder), "exact_match")


def test_a_run_made_twice_is_refused(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    job(tmp_path / "6", 1e-4, 2, [1.0] * 40)
    with pytest.raises(InputError, match=r"1 and .*6 have the same settings .*seed 2"):
        groups_of(folder)


def test_settings_without_a_part_in_the_weights_make_no_groups(tmp_path: Path) -> None:
    for number, rank in enumerate(["loss", "chrf"]):
        job(tmp_path / str(number), 1e-4, number, [1.0] * 8)
        path = tmp_path / str(number) / "summary.json"
        content = json.loads(path.read_text())
        content["config"] |= {"eval": {"rank": rank}, "logger": rank, "resume": rank}
        path.write_text(json.dumps(content))
    assert len(groups_of(tmp_path)) == 1


def test_records_of_a_category_or_with_similar_questions_are_one_cluster(
    tmp_path: Path,
) -> None:
    rows = read_records(Path(write(tmp_path, [1.0] * 9)) / "evaluation")
    for row in rows:
        row.instruction = hashlib.sha256(str(row.record).encode()).hexdigest()
    assert len(set(clusters_of(rows).tolist())) == 9

    # Records 1 and 9 ask the same, so their categories are one cluster.
    for place, row in enumerate(rows):
        row.category = f"kind {place % 7}"
    rows[8].instruction = rows[0].instruction.upper()
    clusters = clusters_of(rows).tolist()
    assert clusters[0] == clusters[7] == clusters[8] == clusters[1]
    assert len(set(clusters)) == 6

    # Five categories would leave too little to draw from.
    for place, row in enumerate(rows):
        row.category = f"kind {place % 5}"
    assert len(set(clusters_of(rows).tolist())) == 8


def test_names_stand_for_runs_sweeps_and_patterns(tmp_path: Path) -> None:
    folder = sweep(tmp_path / "sweep")
    jobs = [str(folder / str(number)) for number in range(6)]
    assert evaluated_runs([str(folder)]) == jobs
    assert evaluated_runs([str(folder / "*"), jobs[0]]) == jobs
    assert evaluated_runs([str(tmp_path / "sw*")]) == jobs
    assert evaluated_runs(jobs[4:2:-1]) == [jobs[4], jobs[3]]
    with pytest.raises(InputError, match="is one run"):
        evaluated_runs([jobs[0]])
    with pytest.raises(InputError, match="has not been evaluated"):
        evaluated_runs([jobs[0], str(tmp_path / "nothing*")])


def test_several_runs_are_compared_in_groups_and_two_as_ever(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sweep(tmp_path / "sweep")
    compare_runs([str(folder)], str(tmp_path / "out"))
    assert "optim.lr=0.001" in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["groups.json", "report.html"]
    content = json.loads((tmp_path / "out" / "groups.json").read_text())
    assert list(content) == [
        *("ranked_by", "split", "records", "clusters", "order", "groups", "differences"),
        *("disputed", "notes", "verdicts"),
    ]
    assert list(content["groups"][0]["means"]["loss"]) == ["mean", "interval", "spread", "by_seed"]
    assert list(content["differences"]["loss"][0]) == [
        *("first", "second", "difference", "interval", "p_value", "visible", "p_corrected"),
        "differ",
    ]
    assert content["disputed"][0]["answers"] == [[{"text": "x", "seeds": 3}]] * 2

    compare_runs([str(folder / "0"), str(folder / "3")], str(tmp_path / "two"))
    assert "win/tie/loss" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["comparison.json"]


def test_the_page_shows_groups_differences_curves_and_disputed_records(tmp_path: Path) -> None:
    groups = groups_of(sweep(tmp_path / "sweep"))
    page = keep(tmp_path, groups, compare_groups(groups, "exact_match"))
    seen = Seen(page.read_text(encoding="utf-8"))
    for words in (
        "2 groups of runs, by exact match",
        "By exact match: optim.lr=0.0001 is better than optim.lr=0.001",
        "1. optim.lr=0.0001 3 runs 0.767",
        "+0.500",
        "Where seeds disagree",
        "Seed exact match",
    ):
        assert words in seen.text
    description = "Mean validation loss over the seeds; at its end: optim.lr=0.0001 0.796"
    assert any(value.startswith(description) for _, value in seen.attributes)
    anchors = {value[1:] for name, value in seen.attributes if name == "href" and value[0] == "#"}
    assert anchors
    assert all(("id", anchor) in seen.attributes for anchor in anchors)
    links = [value for name, value in seen.attributes if name in ("src", "href")]
    assert all(link.startswith(("#", "data:")) for link in links)


def test_one_seed_each_is_said_to_be_over_the_records_alone(tmp_path: Path) -> None:
    found = compare_groups(groups_of(sweep(tmp_path, seeds=(1,))), "exact_match")
    assert found.groups[0].means["exact_match"].spread is None
    assert found.groups[0].alike is None
    assert "over the records alone" in groups_text(found)
