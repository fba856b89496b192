"""The numbers of a few results that were written by hand."""

from dataclasses import replace

import pytest

from sft.metrics import TEXT_METRICS
from sft.scoring.aggregate import (
    by_category,
    by_turns,
    differences,
    not_asked_remarks,
    numbers,
    turns_remark,
    without_duplicates,
    worst,
)
from sft.scoring.results import (
    AnswerLength,
    AnswerResult,
    CategoryMeans,
    MeansWithout,
    RecordResult,
)


def answer(
    exact: float, loss: float | None, tokens: int, score: int | None = None, text: str = "a b"
) -> AnswerResult:
    return AnswerResult(
        text=text,
        tokens=3,
        finish_reason="stop" if exact else "length",
        metrics=dict.fromkeys(TEXT_METRICS, exact),
        loss=loss,
        loss_tokens=tokens,
        status=None if score is None else "scored",
        score=score,
    )


def row(
    record: int,
    tuned: AnswerResult,
    base: AnswerResult | None = None,
    category: str | None = None,
    duplicate: str | None = None,
) -> RecordResult:
    return RecordResult(record, duplicate, "", "", "", category, tuned, base)


def tuned(rows: list[RecordResult]) -> list[AnswerResult]:
    return [one.tuned for one in rows]


UNASKED = AnswerResult(None, None, None, dict.fromkeys(TEXT_METRICS), None, 0, "too long")
ROWS = [
    row(1, answer(1, 1.0, 9, 90, "one"), answer(0, 2.0, 9, 10), category="sum"),
    row(
        2,
        answer(0, 4.0, 1, 50, "one two"),
        answer(0, 4.0, 1, 20),
        category="sum",
        duplicate="near",
    ),
    row(
        3,
        answer(1, 2.0, 2, 70, "one two three"),
        answer(1, 3.0, 2, 70),
        category="word",
        duplicate="exact",
    ),
    row(4, answer(0, None, 0, 20, "one two three four"), answer(0, None, 0, 20)),
]


def test_means_are_over_records_and_the_loss_over_tokens() -> None:
    found = numbers(tuned(ROWS))
    assert found["metrics"]["exact_match"] == found["metrics"]["chrf"] == 0.5
    assert found["loss"] == pytest.approx((1 * 9 + 4 + 2 * 2) / 12)
    assert found["never_stopped"] == 2
    assert found["length"] == AnswerLength(2.5, pytest.approx(-0.8))
    judge = found["judge"]
    assert (judge.mean, judge.median, judge.max, judge.min) == (57.5, 60, 90, 20)
    assert (judge.scored, judge.of, judge.status) == (4, 4, {"scored": 4})
    assert 20 <= judge.interval[0] < 57.5 < judge.interval[1] <= 90


def test_records_that_were_not_asked_are_counted_and_left_out_of_all_numbers() -> None:
    rows = [*ROWS, row(5, UNASKED, UNASKED, category="sum")]
    found = numbers(tuned(rows))
    assert found.pop("not_asked") == {"too long": 1}
    assert found == {
        key: value for key, value in numbers(tuned(ROWS)).items() if key != "not_asked"
    }
    assert by_category(rows, ["tuned", "base"], "exact_match") == by_category(
        ROWS, ["tuned", "base"], "exact_match"
    )
    assert worst(rows) == worst(ROWS)
    plain = [row(1, answer(1, 1.0, 9)), row(2, UNASKED)]
    assert numbers(tuned(plain))["judge"] is None  # nobody was asked


def test_an_answer_without_spaces_has_a_length_in_letters() -> None:
    found = numbers([answer(0, 1.0, 1, text="今日は晴れ")])
    assert found["length"].mean_words == 5


def test_answers_without_a_score_are_counted_and_left_out_of_the_mean() -> None:
    lost = [row(5, replace(answer(0, 1.0, 1), status="timeout")), row(6, answer(0, 1.0, 1, 80))]
    judge = numbers(tuned(lost))["judge"]
    assert (judge.mean, judge.scored, judge.of) == (80, 1, 2)
    assert judge.status == {"scored": 1, "timeout": 1}
    none = numbers(tuned(lost[:1]))["judge"]
    assert none.mean is none.interval is none.max is None
    assert numbers([answer(0, 1.0, 1)])["judge"] is None


def test_differences_pair_the_records() -> None:
    found = differences(tuned(ROWS), [one.of("base") for one in ROWS], ("tuned", "base"))
    assert found["loss"].records == 3  # one has none
    assert found["loss"].difference == pytest.approx(-(9 + 2) / 12)
    assert (found["loss"].wins, found["loss"].ties) == (2, 1)
    assert (found["score"].wins, found["score"].ties, found["score"].losses) == (2, 2, 0)
    assert found["score"].difference == pytest.approx((80 + 30) / 4)
    assert "within noise" in found["exact_match"].verdict


def test_losses_of_different_tokens_are_not_compared() -> None:
    found = differences([answer(1, 1.0, 5)], [answer(1, 1.0, 6)], ("a", "b"))
    assert "loss" not in found
    assert "score" not in found
    assert found["chrf"].ties == 1


def test_categories_have_their_own_means() -> None:
    assert by_category(ROWS, ["tuned", "base"], "score") == {
        "sum": CategoryMeans(2, {"tuned": 70, "base": 15}),
        "word": CategoryMeans(1, {"tuned": 70, "base": 70}),
    }
    assert by_category([row(1, answer(1, 1.0, 1))], ["tuned"], "exact_match") is None


def test_follow_up_questions_have_their_own_mean_beside_single_ones() -> None:
    system = [{"role": "system", "content": "s"}]
    earlier = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    rows = [
        row(1, answer(1, 1.0, 1)),
        replace(row(2, answer(0, 1.0, 1)), before=system),
        replace(row(3, answer(1, 1.0, 1)), before=[*system, *earlier]),
    ]
    found = by_turns(rows, ["tuned"], "exact_match")
    assert found == {
        "follow-up question": CategoryMeans(1, {"tuned": 1}),
        "single question": CategoryMeans(2, {"tuned": 0.5}),
    }
    assert turns_remark(found) == (
        "exact match of 1 follow-up question: tuned 1.000; of 2 single questions: tuned 0.500"
    )
    assert by_turns(rows[:2], ["tuned"], "exact_match") is turns_remark(None) is None


def test_means_without_duplicates_leave_out_exact_and_near_ones() -> None:
    found = without_duplicates(ROWS, ["tuned"])
    assert (found.exact, found.near, found.without.records) == (1, 1, 2)
    means = found.without.models["tuned"]
    assert means is not None
    assert (means["score"], means["loss"]) == (55, 1)
    assert without_duplicates(ROWS[1:3], ["tuned"]).without == MeansWithout(0, {"tuned": None})


def test_a_close_neighbour_is_one_of_at_least_nine_tenths() -> None:
    rows = [row(1, answer(1, 1.0, 1)), row(2, answer(1, 1.0, 1)), row(3, answer(1, 1.0, 1))]
    rows[0].duplicate, rows[0].similarity = "near", 0.9
    rows[1].duplicate, rows[1].similarity = "near", 0.89
    found = without_duplicates(rows, ["tuned"])
    assert (found.near, found.close) == (2, 1)
    assert found.without.records == 1
    assert found.without_close is not None
    assert found.without_close.records == 2


def test_the_worst_come_first() -> None:
    found = worst(ROWS, count=2)
    assert found["loss"] == [2, 3]
    assert found["score"] == [4, 2]
    assert found["exact_match"] == [2, 4]


def test_a_remark_names_both_models_if_neither_was_asked_the_same_number() -> None:
    counts = {"too long": 2}
    [remark] = not_asked_remarks({"base": counts, "tuned": counts})
    assert "either model: 2 records, whose prompt is too long" in remark
    [remark] = not_asked_remarks({"base": {"empty": 1}, "tuned": {}})
    assert "base: 1 record, whose prompt is empty" in remark
