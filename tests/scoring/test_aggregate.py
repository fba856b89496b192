"""The numbers of a few rows that were written by hand."""

from typing import Any

import pytest

from sft.scoring.aggregate import by_category, differences, numbers, without_duplicates, worst

METRICS = ("exact_match", "token_f1", "rouge_l", "chrf")


def part(
    exact: float, loss: float | None, tokens: int, score: int | None = None, text: str = "a b"
) -> dict[str, Any]:
    status = None if score is None else "scored"
    said = {"text": text, "tokens": 3, "finish_reason": "stop" if exact else "length"}
    judged = {"status": status, "score": score, "reason": None}
    return said | dict.fromkeys(METRICS, exact) | {"loss": loss, "loss_tokens": tokens} | judged


def row(
    record: int, tuned: dict[str, Any], base: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    return {
        "record": record,
        "category": None,
        "duplicate": None,
        "tuned": tuned,
        "base": base,
    } | more


ROWS = [
    row(1, part(1, 1.0, 9, 90, "one"), part(0, 2.0, 9, 10), category="sum"),
    row(2, part(0, 4.0, 1, 50, "one two"), part(0, 4.0, 1, 20), category="sum", duplicate="near"),
    row(
        3,
        part(1, 2.0, 2, 70, "one two three"),
        part(1, 3.0, 2, 70),
        category="word",
        duplicate="exact",
    ),
    row(4, part(0, None, 0, 20, "one two three four"), part(0, None, 0, 20)),
]


def test_means_are_over_records_and_the_loss_over_tokens() -> None:
    found = numbers(ROWS, "tuned")
    assert found["exact_match"] == found["chrf"] == 0.5
    assert found["loss"] == pytest.approx((1 * 9 + 4 + 2 * 2) / 12)
    assert found["never_stopped"] == 2
    assert found["length"] == {"mean_words": 2.5, "score_correlation": pytest.approx(-0.8)}
    judge = found["judge"]
    assert (judge["mean"], judge["median"], judge["max"], judge["min"]) == (57.5, 60, 90, 20)
    assert (judge["scored"], judge["of"], judge["status"]) == (4, 4, {"scored": 4})
    assert 20 <= judge["interval"][0] < 57.5 < judge["interval"][1] <= 90


def test_what_was_not_asked_is_counted_and_has_no_part_in_any_number() -> None:
    unasked = (
        part(0, None, 0)
        | dict.fromkeys((*METRICS, "text", "tokens", "finish_reason"))
        | {"status": "too long"}
    )
    rows = [*ROWS, row(5, unasked, unasked, category="sum")]
    found = numbers(rows, "tuned")
    assert found.pop("not_asked") == {"too long": 1}
    assert found == {
        key: value for key, value in numbers(ROWS, "tuned").items() if key != "not_asked"
    }
    assert by_category(rows, ["tuned", "base"], "exact_match") == by_category(
        ROWS, ["tuned", "base"], "exact_match"
    )
    assert worst(rows, "tuned") == worst(ROWS, "tuned")
    plain = [row(1, part(1, 1.0, 9)), row(2, unasked)]
    assert numbers(plain, "tuned")["judge"] is None  # nobody was asked


def test_an_answer_without_spaces_has_a_length_in_letters() -> None:
    assert (
        numbers([row(1, part(0, 1.0, 1, text="今日は晴れ"))], "tuned")["length"]["mean_words"] == 5
    )


def test_what_has_no_score_is_counted_and_has_no_part_in_the_mean() -> None:
    lost = [row(5, part(0, 1.0, 1) | {"status": "timeout"}), row(6, part(0, 1.0, 1, 80))]
    judge = numbers(lost, "tuned")["judge"]
    assert (judge["mean"], judge["scored"], judge["of"]) == (80, 1, 2)
    assert judge["status"] == {"scored": 1, "timeout": 1}
    none = numbers(lost[:1], "tuned")["judge"]
    assert none["mean"] is none["interval"] is none["max"] is None
    assert numbers([row(7, part(0, 1.0, 1))], "tuned")["judge"] is None


def test_differences_pair_the_records() -> None:
    tuned, base = ([one[name] for one in ROWS] for name in ("tuned", "base"))
    found = differences(tuned, base, ("tuned", "base"))
    assert found["loss"]["records"] == 3  # one has none
    assert found["loss"]["difference"] == pytest.approx(-(9 + 2) / 12)
    assert (found["loss"]["wins"], found["loss"]["ties"]) == (2, 1)
    assert (found["score"]["wins"], found["score"]["ties"], found["score"]["losses"]) == (2, 2, 0)
    assert found["score"]["difference"] == pytest.approx((80 + 30) / 4)
    assert "within noise" in found["exact_match"]["verdict"]


def test_losses_of_different_tokens_are_not_compared() -> None:
    found = differences([part(1, 1.0, 5)], [part(1, 1.0, 6)], ("a", "b"))
    assert "loss" not in found
    assert "score" not in found
    assert found["chrf"]["ties"] == 1


def test_categories() -> None:
    assert by_category(ROWS, ["tuned", "base"], "score") == {
        "sum": {"records": 2, "tuned": 70, "base": 15},
        "word": {"records": 1, "tuned": 70, "base": 70},
    }
    assert by_category([row(1, part(1, 1.0, 1))], ["tuned"], "exact_match") is None


def test_without_the_records_that_training_has_seen() -> None:
    found = without_duplicates(ROWS, ["tuned"])
    assert (found["exact"], found["near"], found["without"]["records"]) == (1, 1, 2)
    assert found["without"]["tuned"]["score"] == 55
    assert found["without"]["tuned"]["loss"] == 1
    assert without_duplicates(ROWS[1:3], ["tuned"])["without"] == {"records": 0, "tuned": None}


def test_the_worst_come_first() -> None:
    found = worst(ROWS, "tuned", count=2)
    assert found["loss"] == [2, 3]
    assert found["score"] == [4, 2]
    assert found["exact_match"] == [2, 4]
